"""The gated delta rule in chunks against the same rule token by token in float64, and against mlx-lm's layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten
from mlx_lm.models.qwen3_5 import GatedDeltaNet, TextModelArgs

from mlx_loopai.models import gated_delta
from mlx_loopai.models.gated_delta import gated_delta_rule, linear_attention
from mlx_loopai.models.pass_sizes import CHUNK_TOKENS

Arrays = tuple[np.ndarray, ...]


def reference(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, g: np.ndarray, beta: np.ndarray, memory: np.ndarray, pull: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """(answers, memory behind them, gradients of (answers * pull).sum() + memory.sum()), a token at a time."""
    inputs = [each.astype(np.float64) for each in (q, k, v, g, beta, memory)]
    gradients = [np.zeros_like(each) for each in inputs]
    answers, last = np.zeros(v.shape), np.zeros(memory.shape)
    for row in range(v.shape[0]):
        for head in range(v.shape[2]):
            own = head // (v.shape[2] // k.shape[2])
            places = [(row, slice(None), own)] * 2 + [(row, slice(None), head)] * 3 + [(row, head)]
            found = one_head(*(each[place] for each, place in zip(inputs, places, strict=True)), pull[row, :, head])
            answers[row, :, head], last[row, head] = found[:2]
            for gradient, place, part in zip(gradients, places, found[2], strict=True):
                gradient[place] += part
    return answers, last, gradients


def one_head(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, g: np.ndarray, beta: np.ndarray, memory: np.ndarray, pull: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    answers, decayed, behind, updates = [], [], [], []
    for t in range(len(v)):
        decayed.append(np.exp(g[t]) * memory)
        updates.append(beta[t] * (v[t] - decayed[t].T @ k[t]))
        memory = decayed[t] + np.outer(k[t], updates[t])
        behind.append(memory)
        answers.append(memory.T @ q[t])
    dq, dk, dv, dg, dbeta = (np.zeros_like(each) for each in (q, k, v, g, beta))
    pulled = np.ones_like(memory)
    for t in reversed(range(len(v))):
        dq[t] = behind[t] @ pull[t]
        pulled = pulled + np.outer(q[t], pull[t])
        update = pulled.T @ k[t]
        dk[t] = pulled @ updates[t] - beta[t] * decayed[t] @ update
        dv[t] = beta[t] * update
        dbeta[t] = update @ (v[t] - decayed[t].T @ k[t])
        pulled = pulled - beta[t] * np.outer(k[t], update)
        dg[t] = (pulled * decayed[t]).sum()
        pulled = np.exp(g[t]) * pulled
    return np.array(answers), memory, [dq, dk, dv, dg, dbeta, pulled]


def drawn(rows: int, tokens: int, key_heads: int, repeats: int, sizes: tuple[int, int], seed: int = 0) -> Arrays:
    """q, k (B, T, K, D_k) with keys of length 1, v (B, T, H, D_v), log-decay and beta (B, T, H), memory."""
    generator = np.random.default_rng(seed)
    heads, (key_size, value_size) = key_heads * repeats, sizes
    q, k = generator.normal(size=(2, rows, tokens, key_heads, key_size))
    v = generator.normal(size=(rows, tokens, heads, value_size))
    # From hardly any decay to all at once.
    decay = -np.exp(generator.normal(-2, 2, (rows, tokens, heads)))
    beta = generator.uniform(size=(rows, tokens, heads))
    memory = generator.normal(size=(rows, heads, key_size, value_size))
    k /= np.linalg.norm(k, axis=-1, keepdims=True)
    found = (q / key_size**0.5, k, v, decay, beta, memory)
    return tuple(each.astype(np.float32) for each in found)


def found_by_chunks(arrays: Arrays, pull: np.ndarray, compiled: bool) -> tuple[Any, Any, Any]:
    def loss(*parts: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        answers, memory = gated_delta_rule(*parts)
        return (answers * mx.array(pull)).sum() + memory.sum(), answers, memory

    run = mx.value_and_grad(loss, argnums=list(range(6)))
    (_, answers, memory), gradients = (mx.compile(run) if compiled else run)(*map(mx.array, arrays))
    return answers, memory, gradients


def check(arrays: Arrays, compiled: bool = False) -> None:
    pull = np.random.default_rng(9).normal(size=arrays[2].shape).astype(np.float32)
    expected = reference(*arrays, pull)
    answers, memory, gradients = found_by_chunks(arrays, pull, compiled)
    for found, wanted in zip((answers, memory, *gradients), (*expected[:2], *expected[2]), strict=True):
        assert found.dtype == mx.float32
        assert np.abs(np.array(found) - wanted).max() <= 1e-5 * max(1, np.abs(wanted).max())


@settings(deadline=None, max_examples=15)
@given(
    rows=st.integers(1, 3),
    tokens=st.integers(1, 2 * CHUNK_TOKENS + 5),
    key_heads=st.integers(1, 2),
    repeats=st.integers(1, 3),
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    seed=st.integers(0, 99),
)
def test_it_is_the_rule_token_by_token(
    rows: int, tokens: int, key_heads: int, repeats: int, sizes: tuple[int, int], seed: int
) -> None:
    check(drawn(rows, tokens, key_heads, repeats, sizes, seed))


def test_compiled_it_is_the_same_rule() -> None:
    check(drawn(2, 150, 2, 2, (8, 6)), compiled=True)


def test_keys_that_repeat_are_no_harder() -> None:
    """A series of powers would pass 1e17 here before it cancels: the memory must be rewritten 150 times exactly."""
    q, k, v, decay, beta, memory = drawn(1, 150, 1, 1, (8, 8))
    check((q, np.broadcast_to(k[:, :1], k.shape).copy(), v, 0 * decay, np.ones_like(beta), memory))


def test_small_decays_behind_large_ones_stay_exact() -> None:
    q, k, v, _, beta, memory = drawn(1, 150, 1, 1, (8, 8))
    abrupt = np.where(np.arange(150) % 7 == 3, -300, -1e-3).astype(np.float32)[None, :, None]
    check((q, k, v, abrupt, beta, memory))


def layer(**changes: int) -> GatedDeltaNet:
    """mlx-lm's layer with every weight away from its initial constant, training: its own loop over tokens."""
    mx.random.seed(4)
    sizes = {
        "hidden_size": 24,
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 12,
    }
    made = GatedDeltaNet(TextModelArgs(**sizes | changes))
    made.dt_bias = mx.random.normal(made.dt_bias.shape)
    made.norm.weight = 1 + 0.3 * mx.random.normal(made.norm.weight.shape)
    made.train()
    return made


def gradients_of(run: Callable[[mx.array], mx.array], made: nn.Module, x: mx.array, compiled: bool) -> Any:
    pull = mx.random.normal(x.shape, key=mx.random.key(2))

    def loss(parameters: Any, x: mx.array) -> mx.array:
        made.update(parameters)
        return (run(x) * pull).sum()

    before = made.parameters()
    graph = mx.value_and_grad(loss, argnums=(0, 1))
    found = (mx.compile(graph) if compiled else graph)(before, x)
    made.update(before)
    return found


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("tokens", [1, 3, 32, 33, 75])
def test_the_layer_is_mlx_lms(monkeypatch: pytest.MonkeyPatch, tokens: int, compiled: bool) -> None:
    monkeypatch.setattr(gated_delta, "SPAN_TOKENS", 32)
    made, x = layer(), mx.random.normal((2, tokens, 24), key=mx.random.key(1))
    expected, (weights, wanted) = gradients_of(made, made, x, compiled=False)
    value, (own_weights, gradient) = gradients_of(lambda x: linear_attention(made, x), made, x, compiled)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-4)
    assert mx.abs(gradient - wanted).max() < 1e-5 * max(1, mx.abs(wanted).max().item())
    for (name, array), (_, own) in zip(tree_flatten(weights), tree_flatten(own_weights), strict=True):
        assert mx.abs(array - own).max() < 1e-5 * max(1, mx.abs(array).max().item()), name


def test_what_comes_behind_a_row_changes_nothing_in_it() -> None:
    made, x = layer(), mx.random.normal((2, 70, 24))
    padded = mx.concatenate([x, 1e3 * mx.ones((2, 30, 24))], axis=1)
    assert mx.abs(linear_attention(made, padded)[:, :70] - linear_attention(made, x)).max() < 1e-5


def test_in_bf16_it_is_as_near_to_float32_as_mlx_lms_own() -> None:
    made, x = layer(), mx.random.normal((2, 100, 24)).astype(mx.bfloat16)
    made.set_dtype(mx.bfloat16)
    theirs, ours = made(x), linear_attention(made, x)
    made.set_dtype(mx.float32)
    exact = made(x.astype(mx.float32))
    assert ours.dtype == mx.bfloat16
    rounding = 2**-8 * mx.abs(exact).max()
    assert mx.abs(ours - exact).max() <= mx.maximum(mx.abs(theirs - exact).max(), rounding)


def test_no_states_wait_for_the_backward_pass() -> None:
    """A token's states are 8 heads of 32 x 32 floats here: 4 MiB for 128 tokens, several times over in mlx-lm's loop."""
    made = layer(hidden_size=16, linear_num_value_heads=8, linear_key_head_dim=32, linear_value_head_dim=32)
    x = mx.random.normal((1, 128, 16))
    mx.eval(made.parameters(), x)

    def held(run: Callable[[mx.array], mx.array]) -> int:
        before = mx.get_active_memory()
        value, gradient = mx.value_and_grad(lambda x: run(x).sum())(x)
        mx.eval(value)
        found = mx.get_active_memory() - before
        mx.eval(gradient)
        return found

    assert held(lambda x: linear_attention(made, x)) < 1 << 20
    assert held(made) > 4 << 20
