"""The ways to compute the loss, lazy, spare and at once, against float64: heads, smoothing, z-loss, chunks."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_loopai.models.eager_loss import loss_and_gradient, token_losses
from mlx_loopai.models.loss import PLAIN, Head, HeadForm, LossTerms, linear_cross_entropy

N, D, V = 19, 64, 211
TERMS = [PLAIN, LossTerms(label_smoothing=0.1), LossTerms(z_loss=1e-2), LossTerms(label_smoothing=0.2, z_loss=1e-3)]


def reference(
    hidden: np.ndarray, weight: np.ndarray, targets: np.ndarray, weights: np.ndarray, terms: LossTerms
) -> tuple[float, np.ndarray]:
    scores = hidden.astype(np.float64) @ weight.astype(np.float64).T
    peak = scores.max(axis=1, keepdims=True)
    log_total = (np.log(np.exp(scores - peak).sum(axis=1, keepdims=True)) + peak)[:, 0]
    wanted = np.full_like(scores, terms.label_smoothing / V)
    wanted[np.arange(N), targets] += 1 - terms.label_smoothing
    losses = log_total - (wanted * scores).sum(axis=1) + terms.z_loss * log_total**2
    probability = np.exp(scores - log_total[:, None])
    pull = (probability * (1 + 2 * terms.z_loss * log_total[:, None]) - wanted) * weights[:, None]
    return float(losses @ weights), pull @ weight.astype(np.float64)


def drawn(scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(4)
    weights = generator.uniform(0.5, 2.0, N).astype(np.float32)
    weights[-3:] = 0
    hidden = scale * generator.normal(size=(N, D)).astype(np.float32)
    return hidden, generator.normal(size=(V, D)).astype(np.float32) / 4, generator.integers(0, V, N), weights


def heads(weight: np.ndarray) -> dict[str, tuple[Head, np.ndarray]]:
    """Name -> the head and the dense weight that it stands for."""
    found = {"dense": (Head((mx.array(weight),)), weight)}
    forms = [("affine", bits, 32) for bits in (2, 3, 4, 5, 6, 8)] + [("mxfp4", 4, 32)]
    for mode, bits, group in forms:
        form: dict[str, Any] = {"group_size": group, "bits": bits, "mode": mode}
        packed = mx.quantize(mx.array(weight), **form)
        found[f"{mode}-{bits}"] = (
            Head(tuple(packed), group, bits, mode),
            np.array(mx.dequantize(*packed, **form, dtype=mx.float32)),
        )
    return found


def lazy(
    hidden: mx.array,
    head: Head,
    targets: np.ndarray,
    weights: np.ndarray,
    rows: int,
    terms: LossTerms,
    **form: bool,
) -> tuple[float, np.ndarray]:
    compiled, spare = form["compiled"], form.get("spare", False)

    def loss(states: mx.array, *arrays: mx.array) -> mx.array:
        own = Head(arrays, head.group_size, head.bits, head.mode)
        return linear_cross_entropy(states, own, mx.array(targets), mx.array(weights), HeadForm(rows, terms, spare))

    run = mx.value_and_grad(loss)
    value, gradient = (mx.compile(run) if compiled else run)(hidden, *head.arrays)
    return value.item(), np.array(gradient)


@pytest.mark.parametrize("terms", TERMS, ids=str)
@pytest.mark.parametrize(
    "name", ["dense", "affine-2", "affine-3", "affine-4", "affine-5", "affine-6", "affine-8", "mxfp4-4"]
)
def test_all_ways_are_the_reference(name: str, terms: LossTerms) -> None:
    hidden, weight, targets, weights = drawn(1.0)
    head, dense = heads(weight)[name]
    expected, pulled = reference(hidden, dense, targets, weights, terms)
    found = [
        loss_and_gradient(mx.array(hidden), head, targets, weights, HeadForm(7, terms)),
        lazy(mx.array(hidden), head, targets, weights, 7, terms, compiled=False),
        lazy(mx.array(hidden), head, targets, weights, 7, terms, compiled=True),
        lazy(mx.array(hidden), head, targets, weights, 7, terms, compiled=True, spare=True),
    ]
    for value, gradient in found:
        assert value == pytest.approx(expected, rel=1e-5)
        assert np.abs(gradient - pulled).max() < 1e-5 * np.abs(pulled).max()


@pytest.mark.parametrize("chunk_rows", [1, 8, 1000])
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_chunks_and_scores_far_from_zero_change_nothing(chunk_rows: int, scale: float) -> None:
    hidden, weight, targets, weights = drawn(scale)
    head = Head((mx.array(weight),))
    expected, pulled = reference(hidden, weight, targets, weights, PLAIN)
    out = np.empty((N, D), np.float32)
    value, gradient = loss_and_gradient(mx.array(hidden), head, targets, weights, HeadForm(chunk_rows), out=out)
    assert gradient is out
    assert value == pytest.approx(expected, rel=1e-5)
    assert np.abs(gradient - pulled).max() < 1e-5 * np.abs(pulled).max()
    ones = np.ones(N, np.float32)
    losses = token_losses(mx.array(hidden), head, targets, chunk_rows)
    assert losses.sum() == pytest.approx(reference(hidden, weight, targets, ones, PLAIN)[0], rel=1e-5)


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_a_spare_loss_holds_far_from_zero(scale: float) -> None:
    """Also for weights below zero, as those of rejected answers are."""
    hidden, weight, targets, weights = drawn(scale)
    weights[::2] *= -1
    expected, pulled = reference(hidden, weight, targets, weights, PLAIN)
    form = {"compiled": True, "spare": True}
    value, gradient = lazy(mx.array(hidden), Head((mx.array(weight),)), targets, weights, 8, PLAIN, **form)
    assert value == pytest.approx(expected, rel=1e-5)
    assert np.abs(gradient - pulled).max() < 1e-5 * np.abs(pulled).max()


def test_a_spare_loss_keeps_the_small_gradient_of_a_certain_token_in_half_precision() -> None:
    hidden, weight, targets, weights = drawn(1.0)
    weight[targets[0]] = hidden[0] / 4
    half = hidden.astype(np.float16).astype(np.float32), weight.astype(np.float16).astype(np.float32)
    _, pulled = reference(*half, targets, weights, PLAIN)
    assert 0 < np.abs(pulled[0]).max() < 1e-2
    states, head = mx.array(half[0]).astype(mx.float16), Head((mx.array(half[1]).astype(mx.float16),))
    _, gradient = lazy(states, head, targets, weights, 8, PLAIN, compiled=True, spare=True)
    assert np.abs(gradient[0] - pulled[0]).max() < 0.05 * np.abs(pulled[0]).max()


def test_what_is_not_finite_is_seen_in_the_loss() -> None:
    hidden, weight, targets, weights = drawn(1.0)
    hidden[2, 3] = np.inf
    value, _ = loss_and_gradient(mx.array(hidden), Head((mx.array(weight),)), targets, weights, HeadForm(7))
    assert not np.isfinite(value)


def test_one_buffer_of_scores_is_alive() -> None:
    rows, words, chunk = 1024, 5000, 64
    hidden, weight = mx.random.normal((rows, 16)), mx.random.normal((words, 16))
    mx.eval(hidden, weight)
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    loss_and_gradient(hidden, Head((weight,)), np.zeros(rows, np.int32), np.ones(rows, np.float32), HeadForm(chunk))
    assert mx.get_peak_memory() - before < 1.5 * chunk * words * 4
