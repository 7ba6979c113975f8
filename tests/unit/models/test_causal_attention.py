"""Causal attention with its own backward pass, against MLX's and against numpy in float64."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_loopai.config import LoraOptions
from mlx_loopai.errors import InputError
from mlx_loopai.models.attention import attending_by_power, watched_attention
from mlx_loopai.models.backbone import hidden_states
from mlx_loopai.models.causal_attention import causal_attention
from mlx_loopai.models.load import build_model
from mlx_loopai.models.lora import apply_lora
from mlx_loopai.models.pass_sizes import LONGEST_KEPT
from tests.unit.models.test_architectures import CONFIGS

# (query heads, key heads, tokens, size of a key, size of a value): one span and two, of equal and unequal length, and
# a row that keeps no probabilities.
SHAPES = [(4, 2, 5, 8, 8), (4, 4, 64, 8, 8), (6, 2, 131, 16, 12), (4, 2, LONGEST_KEPT + 1, 8, 6)]


def drawn(heads: int, keys: int, tokens: int, size: int, value_size: int) -> list[np.ndarray]:
    generator = np.random.default_rng(tokens)
    shapes = [(2, heads, tokens, size), (2, keys, tokens, size), (2, keys, tokens, value_size)]
    return [generator.normal(size=shape).astype(np.float32) for shape in [*shapes, (2, heads, tokens, value_size)]]


def reference(queries: np.ndarray, keys: np.ndarray, values: np.ndarray, scale: float) -> np.ndarray:
    share = queries.shape[1] // keys.shape[1]
    keys, values = (np.repeat(each.astype(np.float64), share, axis=1) for each in (keys, values))
    scores = scale * queries.astype(np.float64) @ keys.transpose(0, 1, 3, 2)
    scores[..., np.triu(np.ones(scores.shape[-2:], bool), 1)] = -np.inf
    exponent = np.exp(scores - scores.max(-1, keepdims=True))
    return exponent / exponent.sum(-1, keepdims=True) @ values


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("asked", [1, 4])
def test_the_last_queries_alone_are_those_of_all(shape: tuple[int, ...], asked: int) -> None:
    """As behind an opening that was read before."""
    queries, keys, values, pull = map(mx.array, drawn(*shape))

    def last(queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
        return causal_attention(queries, keys, values, 0.3)[:, :, -asked:]

    def alone(queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
        return causal_attention(queries[:, :, -asked:], keys, values, 0.3)

    expected, found = (mx.vjp(each, [queries, keys, values], [pull[:, :, -asked:]]) for each in (last, alone))
    for whole, part in zip([*expected[0], *expected[1]], [*found[0], *found[1]], strict=True):
        assert np.allclose(np.array(part), np.array(whole), atol=2e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_those_of_softmax(shape: tuple[int, ...]) -> None:
    *inputs, pull = drawn(*shape)

    def stock(queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
        return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=0.3, mask="causal")

    arrays, pulls = [mx.array(each) for each in inputs], [mx.array(pull)]
    (found,), gradients = mx.vjp(lambda *each: causal_attention(*each, 0.3), arrays, pulls)
    assert np.allclose(np.array(found), reference(*inputs, 0.3), atol=2e-6)
    _, expected = mx.vjp(stock, arrays, pulls)
    for gradient, wanted in zip(gradients, expected, strict=True):
        assert np.allclose(np.array(gradient), np.array(wanted), atol=2e-5)


@pytest.mark.parametrize("name", ["qwen3", "gpt_neox"])
def test_a_model_attends_by_it_and_then_as_before(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlx_loopai.models import attention

    model, calls = build_model(CONFIGS[name]), []
    monkeypatch.setattr(attention, "causal_attention", lambda *each: calls.append(each) or causal_attention(*each))
    ids = mx.array(np.arange(18).reshape(2, 9))
    expected = model(ids)
    with attending_by_power(model):
        found = model(ids)
    assert len(calls) == (len(model.layers) if mx.default_device() == mx.Device(mx.cpu) else 0)
    assert np.allclose(np.array(found), np.array(expected), atol=1e-5)
    model(ids)
    assert len(calls) <= len(model.layers)


def test_a_model_of_linear_attention_alone_is_left_alone() -> None:
    config = CONFIGS["qwen3_5"]
    model: nn.Module = build_model(config | {"full_attention_interval": 1 + config["num_hidden_layers"]})
    ids = mx.array(np.arange(18).reshape(2, 9))
    expected = hidden_states(model, ids)
    with attending_by_power(model):
        assert np.array_equal(np.array(hidden_states(model, ids)), np.array(expected))
    with pytest.raises(InputError, match="cannot be watched"), watched_attention(model, lambda *_: None):
        pass


def test_a_window_and_half_precision_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlx_loopai.models import attention

    monkeypatch.setattr(attention, "causal_attention", None)
    model: nn.Module = build_model(CONFIGS["qwen3"])
    ids, window = mx.array(np.arange(18).reshape(2, 9)), mx.array(np.tril(np.ones((9, 9), bool)))
    with attending_by_power(model):
        model.layers[0].self_attn(mx.zeros((2, 9, 32)), window, None)
        model.set_dtype(mx.bfloat16)
        apply_lora(model, LoraOptions(rank=2), seed=0)
        mx.eval(model(ids))
