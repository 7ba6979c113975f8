"""The chunked divergence against plain log-softmaxes in float64."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_loopai.models.divergence import linear_divergence
from mlx_loopai.models.eager_loss import divergence_and_gradient, token_losses, token_losses_and_divergences
from mlx_loopai.models.loss import Head

N, D, V = 19, 64, 211


def log_softmax(scores: np.ndarray) -> np.ndarray:
    scores = scores - scores.max(axis=1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))


def reference(
    hidden: np.ndarray, base: np.ndarray, weight: np.ndarray, weights: np.ndarray, left_out: np.ndarray
) -> tuple[float, np.ndarray]:
    """(weighted sum of KL(base || adapted), its gradient wrt hidden), row by row over the tokens that stay."""
    total, gradient = 0.0, np.zeros(hidden.shape)
    for row in range(len(hidden)):
        kept = np.arange(V) != left_out[row]
        head = weight[kept].astype(np.float64)
        adapted, fixed = (log_softmax((each[row : row + 1].astype(np.float64)) @ head.T)[0] for each in (hidden, base))
        total += weights[row] * (np.exp(fixed) * (fixed - adapted)).sum()
        gradient[row] = weights[row] * (np.exp(adapted) - np.exp(fixed)) @ head
    return total, gradient


def drawn(scale: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(3)
    hidden = generator.normal(size=(N, D)).astype(np.float32) * scale
    base = hidden + 0.3 * generator.normal(size=(N, D)).astype(np.float32)
    weight = generator.normal(size=(V, D)).astype(np.float32) / 4
    weights = generator.uniform(0.5, 2.0, N).astype(np.float32)
    weights[-3:] = 0
    return hidden, base, weight, weights


@pytest.mark.parametrize("chunk_rows", [1, 7, N, 1000])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_value_and_gradient_are_those_of_the_definition(chunk_rows: int, masked: bool, scale: float) -> None:
    hidden, base, weight, weights = drawn(scale)
    left_out = np.random.default_rng(1).integers(0, V, N) if masked else np.full(N, -1)
    left_out[4] = -1
    expected, expected_gradient = reference(hidden, base, weight, weights, left_out)

    def loss(states: mx.array) -> mx.array:
        goal = mx.array(left_out) if masked else None
        head = Head((mx.array(weight),))
        return 3 * linear_divergence(states, mx.array(base), head, mx.array(weights), goal, chunk_rows)

    value, gradient = mx.value_and_grad(loss)(mx.array(hidden))
    assert value.item() == pytest.approx(3 * expected, rel=1e-4)
    distance = np.abs(np.array(gradient) - 3 * expected_gradient).max() / np.abs(expected_gradient).max()
    assert distance < 1e-4
    goal = left_out if masked else None
    head = Head((mx.array(weight),))
    eager, pulled = divergence_and_gradient(mx.array(hidden), mx.array(base), head, weights, goal, chunk_rows)
    assert eager == pytest.approx(expected, rel=1e-5)
    assert np.abs(pulled - expected_gradient).max() < 3e-5 * np.abs(expected_gradient).max()


def test_the_base_itself_is_at_no_distance() -> None:
    hidden, _, weight, weights = drawn()
    states = mx.array(hidden)

    def loss(each: mx.array) -> mx.array:
        return linear_divergence(each, states, Head((mx.array(weight),)), mx.array(weights))

    value, gradient = mx.value_and_grad(loss)(states)
    assert value.item() == pytest.approx(0, abs=1e-4)
    assert np.abs(np.array(gradient)).max() < 1e-5
    eager, pulled = divergence_and_gradient(states, states, Head((mx.array(weight),)), weights)
    assert eager == pytest.approx(0, abs=1e-4)
    assert not pulled.any()


def test_what_is_not_finite_is_seen_in_the_sum() -> None:
    hidden, base, weight, weights = drawn()
    hidden[2, 3] = np.inf
    found, _ = divergence_and_gradient(mx.array(hidden), mx.array(base), Head((mx.array(weight),)), weights)
    assert not np.isfinite(found)


def test_the_bases_states_get_no_gradient() -> None:
    hidden, base, weight, weights = (mx.array(each) for each in drawn())
    gradient = mx.grad(lambda fixed: linear_divergence(hidden, fixed, Head((weight,)), weights))(base)
    assert not np.array(gradient).any()


def test_a_quantised_head_is_its_dequantised_one() -> None:
    hidden, base, weight, weights = drawn()
    layer = nn.QuantizedLinear.from_linear(nn.Linear(D, V, bias=False), group_size=32, bits=4)
    layer.weight, layer.scales, layer.biases = mx.quantize(mx.array(weight), group_size=32, bits=4)
    dense = mx.dequantize(layer.weight, layer.scales, layer.biases, group_size=32, bits=4)
    quantised = Head((layer.weight, layer.scales, layer.biases), 32, 4)
    found = [
        linear_divergence(mx.array(hidden), mx.array(base), head, mx.array(weights)).item()
        for head in (quantised, Head((dense,)))
    ]
    found += [
        divergence_and_gradient(mx.array(hidden), mx.array(base), head, weights)[0]
        for head in (quantised, Head((dense,)))
    ]
    assert found == pytest.approx([found[1]] * 4, rel=1e-4)


@pytest.mark.parametrize("on_metal", [False, True])
@pytest.mark.parametrize("chunk_rows", [1, 7, 1000])
def test_every_position_has_its_own(chunk_rows: int, on_metal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Metal's formula computes the same on any device."""
    monkeypatch.setattr(mx.metal, "is_available", lambda: on_metal)
    hidden, base, weight, _ = drawn(8.0)
    head, targets = Head((mx.array(weight),)), np.random.default_rng(2).integers(0, V, N)
    losses, found = token_losses_and_divergences(mx.array(hidden), mx.array(base), head, targets, chunk_rows)
    adapted, fixed = (log_softmax(each.astype(np.float64) @ weight.T.astype(np.float64)) for each in (hidden, base))
    assert found.dtype == np.float32
    assert losses == pytest.approx(-adapted[np.arange(N), targets], rel=1e-5)
    assert losses == pytest.approx(token_losses(mx.array(hidden), head, targets, chunk_rows), rel=1e-6)
    assert found == pytest.approx((np.exp(fixed) * (fixed - adapted)).sum(axis=1), rel=1e-3, abs=1e-5)
