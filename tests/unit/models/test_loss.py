"""The chunked loss against a plain log-softmax in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_loopai.models.load import build_model
from mlx_loopai.models.loss import Head, HeadForm, linear_cross_entropy

N, D, V = 19, 64, 211


def reference(
    hidden: np.ndarray, weight: np.ndarray, targets: np.ndarray, weights: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """(weighted sum of negative log-likelihoods, its gradient wrt hidden, and wrt the head), all in float64."""
    hidden, weight = hidden.astype(np.float64), weight.astype(np.float64)
    logits = hidden @ weight.T
    logits -= logits.max(axis=1, keepdims=True)
    log_softmax = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    rows = np.arange(len(targets))
    pull = np.exp(log_softmax)
    pull[rows, targets] -= 1
    pull *= weights[:, None]
    return -(log_softmax[rows, targets] * weights).sum(), pull @ weight, pull.T @ hidden


def drawn(seed: int = 0, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """hidden (N, D), weight (V, D), targets (N,), weights (N,) of which the last three are padding."""
    generator = np.random.default_rng(seed)
    hidden = generator.normal(size=(N, D)).astype(np.float32) * scale
    weight = generator.normal(size=(V, D)).astype(np.float32) / 4
    targets = generator.integers(0, V, N)
    weights = generator.uniform(0.5, 2.0, N).astype(np.float32)
    weights[-3:] = 0
    return hidden, weight, targets, weights


def distance(found: Any, expected: np.ndarray) -> float:
    """Largest difference relative to the largest entry."""
    return float(np.abs(np.array(found, np.float64) - expected).max() / np.abs(expected).max())


def value_and_gradient(
    head: Head, hidden: mx.array, targets: np.ndarray, weights: np.ndarray, chunk_rows: int, factor: float = 1.0
) -> tuple[mx.array, mx.array]:
    def loss(states: mx.array) -> mx.array:
        return factor * linear_cross_entropy(states, head, mx.array(targets), mx.array(weights), HeadForm(chunk_rows))

    return mx.value_and_grad(loss)(hidden)


@pytest.mark.parametrize("chunk_rows", [1, 7, N, 1000])
def test_value_and_gradient_are_those_of_log_softmax(chunk_rows: int) -> None:
    hidden, weight, targets, weights = drawn()
    value, gradient = value_and_gradient(Head((mx.array(weight),)), mx.array(hidden), targets, weights, chunk_rows)
    expected, expected_gradient, _ = reference(hidden, weight, targets, weights)
    assert value.dtype == mx.float32
    assert value.item() == pytest.approx(expected, rel=1e-5)
    assert distance(gradient, expected_gradient) < 1e-5


def test_scores_far_from_zero_overflow_nothing() -> None:
    hidden, weight, targets, weights = drawn(scale=100.0)
    value, gradient = value_and_gradient(Head((mx.array(weight),)), mx.array(hidden), targets, weights, 7)
    expected, expected_gradient, _ = reference(hidden, weight, targets, weights)
    assert value.item() == pytest.approx(expected, rel=1e-5)
    assert distance(gradient, expected_gradient) < 1e-5


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("chunk_rows", [1, 7, N])
def test_a_quantised_head_is_its_dequantised_weight(bits: int, chunk_rows: int) -> None:
    hidden, weight, targets, weights = drawn(seed=bits)
    packed = mx.quantize(mx.array(weight), group_size=32, bits=bits)
    head = Head(tuple(packed), group_size=32, bits=bits)
    value, gradient = value_and_gradient(head, mx.array(hidden), targets, weights, chunk_rows)
    plain = np.array(mx.dequantize(*packed, group_size=32, bits=bits))
    expected, expected_gradient, _ = reference(hidden, plain, targets, weights)
    assert value.item() == pytest.approx(expected, rel=1e-5)
    assert distance(gradient, expected_gradient) < 1e-5


@pytest.mark.parametrize("chunk_rows", [1, 7, N])
def test_a_trained_head_gets_its_gradient(chunk_rows: int) -> None:
    hidden, weight, targets, weights = drawn()

    def loss(states: mx.array, matrix: mx.array) -> mx.array:
        goal, share = mx.array(targets), mx.array(weights)
        return linear_cross_entropy(states, Head((matrix,)), goal, share, HeadForm(chunk_rows), train_head=True)

    value, gradients = mx.value_and_grad(loss, argnums=(0, 1))(mx.array(hidden), mx.array(weight))
    expected, hidden_gradient, head_gradient = reference(hidden, weight, targets, weights)
    assert value.item() == pytest.approx(expected, rel=1e-5)
    assert distance(gradients[0], hidden_gradient) < 1e-5
    assert distance(gradients[1], head_gradient) < 1e-5


def test_a_factor_outside_scales_the_gradient() -> None:
    hidden, weight, targets, weights = drawn()
    _, gradient = value_and_gradient(Head((mx.array(weight),)), mx.array(hidden), targets, weights, 7, factor=-2.5)
    assert distance(gradient, -2.5 * reference(hidden, weight, targets, weights)[1]) < 1e-5


def test_padding_gets_no_gradient_and_adds_nothing() -> None:
    hidden, weight, targets, weights = drawn()
    head = Head((mx.array(weight),))
    value, gradient = value_and_gradient(head, mx.array(hidden), targets, weights, 7)
    alone, _ = value_and_gradient(head, mx.array(hidden[:-3]), targets[:-3], weights[:-3], 7)
    assert value.item() == pytest.approx(alone.item(), rel=1e-6)
    assert not np.array(gradient)[-3:].any()


def test_half_precision_is_as_near_as_its_inputs() -> None:
    hidden, weight, targets, weights = drawn()
    half_hidden, half_weight = mx.array(hidden).astype(mx.bfloat16), mx.array(weight).astype(mx.bfloat16)
    value, gradient = value_and_gradient(Head((half_weight,)), half_hidden, targets, weights, 7)
    rounded = [np.array(array.astype(mx.float32)) for array in (half_hidden, half_weight)]
    expected, expected_gradient, _ = reference(*rounded, targets, weights)
    assert value.dtype == mx.float32
    assert gradient.dtype == mx.bfloat16
    assert value.item() == pytest.approx(expected, rel=5e-3)
    assert distance(gradient.astype(mx.float32), expected_gradient) < 1e-2


def test_half_precision_keeps_the_gradient_of_tokens_that_are_almost_certain() -> None:
    """What is left of a well-learnt token's gradient must not be the difference of two rounded numbers."""
    generator = np.random.default_rng(3)
    weight = mx.array(generator.normal(size=(V, D)).astype(np.float32)).astype(mx.bfloat16)
    targets = generator.integers(0, V, N)
    plain = np.array(weight.astype(mx.float32))
    # Along the target's own row: a probability of about 0.99 to 0.9999.
    hidden = mx.array(0.2 * plain[targets]).astype(mx.bfloat16)
    ones = np.ones(N, np.float32)
    _, gradient = value_and_gradient(Head((weight,)), hidden, targets, ones, 7)
    _, expected, _ = reference(np.array(hidden.astype(mx.float32)), plain, targets, ones)
    assert np.abs(expected).max() < 0.5
    assert distance(gradient.astype(mx.float32), expected) < 5e-2


@pytest.mark.parametrize("train_head", [False, True])
def test_a_compiled_loss_is_the_same(train_head: bool) -> None:
    hidden, weight, targets, weights = drawn()

    def loss(states: mx.array, matrix: mx.array, goal: mx.array, share: mx.array) -> mx.array:
        return linear_cross_entropy(states, Head((matrix,)), goal, share, HeadForm(7), train_head=train_head)

    gradient = mx.value_and_grad(loss)
    arguments = [mx.array(values) for values in (hidden, weight, targets, weights)]
    compiled = mx.compile(gradient)
    for shift in range(2):  # traced once, run with other values the second time
        arguments[2] = mx.array((targets + shift) % V)
        found, expected = compiled(*arguments), gradient(*arguments)
        assert found[0].item() == pytest.approx(expected[0].item(), rel=1e-6)
        assert distance(found[1], np.array(expected[1])) < 1e-6


def tiny(tied: bool) -> nn.Module:
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "intermediate_size": 64, "vocab_size": 96}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "rms_norm_eps": 1e-6}
    return build_model({"model_type": "qwen2", "tie_word_embeddings": tied, **sizes, **heads})


def plain_head(model: nn.Module, tied: bool) -> mx.array:
    layer = model.model.embed_tokens if tied else model.lm_head
    if not hasattr(layer, "bits"):
        return layer.weight
    return mx.dequantize(layer.weight, layer.scales, layer.biases, group_size=layer.group_size, bits=layer.bits)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("bits", [0, 4])
def test_the_head_of_a_model_gives_the_models_loss(tied: bool, bits: int) -> None:
    mx.random.seed(0)
    model = tiny(tied)
    if bits:
        nn.quantize(model, group_size=32, bits=bits)
    generator = np.random.default_rng(0)
    hidden = generator.normal(size=(5, 64)).astype(np.float32)
    targets, ones = generator.integers(0, 96, 5), np.ones(5, np.float32)
    value, gradient = value_and_gradient(Head.of(model), mx.array(hidden), targets, ones, 2)
    expected, expected_gradient, _ = reference(hidden, np.array(plain_head(model, tied)), targets, ones)
    assert value.item() == pytest.approx(expected, rel=1e-5)
    assert distance(gradient, expected_gradient) < 1e-5


def peak_bytes(run: Callable[[], Any]) -> int:
    mx.synchronize()
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(run())
    return mx.get_peak_memory() - before


def test_the_logits_are_never_built() -> None:
    rows, words = 1024, 5000
    hidden, weight = mx.random.normal((rows, 16)), mx.random.normal((words, 16))
    targets, ones = np.zeros(rows, np.int32), np.ones(rows, np.float32)
    mx.eval(hidden, weight)
    peak = peak_bytes(lambda: value_and_gradient(Head((weight,)), hidden, targets, ones, 16))
    # 64 chunks, of which a few are alive at once, whatever the number of rows.
    assert peak < rows * words * 4 / 4
