"""Attention and gated MLPs of a pass on a CPU, against numpy in float64 and against mlx-lm's own."""

from __future__ import annotations

import threading

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.models import llama
from mlx_lm.models.cache import BatchKVCache, make_prompt_cache

from mlx_loopai.models.answering_pass import (
    LEAST_OPENING,
    Opening,
    answering,
    attention_behind,
    masked_attention,
    opening_of_rows,
)
from mlx_loopai.models.load import build_model
from tests.tiny_architectures import CONFIGS

HEADS, KEY_HEADS, SIZE, VALUE_SIZE, SCALE = 6, 2, 8, 12, 0.3
PADDING = (2, 0, 5)


def drawn(n_asked: int, n_keys: int) -> list[np.ndarray]:
    generator = np.random.default_rng(n_asked)
    shapes = [(HEADS, n_asked, SIZE), (KEY_HEADS, n_keys, SIZE), (KEY_HEADS, n_keys, VALUE_SIZE)]
    return [generator.normal(size=(len(PADDING), *shape)).astype(np.float32) for shape in shapes]


def reference(queries: np.ndarray, keys: np.ndarray, values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    keys, values = (np.repeat(each.astype(np.float64), HEADS // KEY_HEADS, axis=1) for each in (keys, values))
    scores = SCALE * queries.astype(np.float64) @ keys.swapaxes(-1, -2)
    scores = np.where(mask, scores, -np.inf)
    exponent = np.exp(scores - scores.max(-1, keepdims=True))
    return exponent / exponent.sum(-1, keepdims=True) @ values


def causal(n_asked: int, n_keys: int) -> np.ndarray:
    """(B, 1, Q, T) of rows that are padded on the left by PADDING."""
    places, asked = np.arange(n_keys), np.arange(n_keys - n_asked, n_keys)
    seen = (places <= asked[:, None]) & (places >= np.array(PADDING)[:, None, None])
    return seen[:, None]


@pytest.mark.parametrize("n_asked", [1, 4])
def test_masked_attention_is_softmax(n_asked: int) -> None:
    inputs, mask = drawn(n_asked, 30), causal(n_asked, 30)
    found = masked_attention(*map(mx.array, inputs), SCALE, mx.array(mask))
    assert np.allclose(np.array(found), reference(*inputs, mask), atol=1e-5)
    without = masked_attention(*map(mx.array, inputs), SCALE, None)
    assert np.allclose(np.array(without), reference(*inputs, np.ones_like(mask)), atol=1e-5)


def test_a_query_that_sees_nothing_stays_finite() -> None:
    mask = causal(4, 30)
    mask[1, :, 2] = False
    found = masked_attention(*map(mx.array, drawn(4, 30)), SCALE, mx.array(mask))
    assert np.isfinite(np.array(found)).all()


@pytest.mark.parametrize("n_asked", [1, 4])
def test_an_opening_met_once_gives_the_same(n_asked: int) -> None:
    queries, keys, values = drawn(n_asked, 30)
    opening = Opening(tokens=11, padding=PADDING)
    for row, padding in enumerate(PADDING):
        for each in (keys, values):
            each[row, :, padding : padding + 11] = each[0, :, PADDING[0] : PADDING[0] + 11]
    mask = causal(n_asked, 30)
    found = attention_behind(opening, *map(mx.array, (queries, keys, values)), SCALE, mx.array(mask))
    assert np.allclose(np.array(found), reference(queries, keys, values, mask), atol=1e-5)


def logits(model: nn.Module, opening: bool) -> tuple[np.ndarray, list[BatchKVCache]]:
    """Of three rows with a common opening that were padded on the left: a part of their prompts, then one token."""
    generator = np.random.default_rng(1)
    shared = generator.integers(0, 97, LEAST_OPENING)
    longest = LEAST_OPENING + 7
    ids, cache = np.zeros((len(PADDING), longest), np.int32), [BatchKVCache(list(PADDING)) for _ in model.layers]
    for row, padding in zip(ids, PADDING, strict=True):
        row[padding:] = [*shared, *generator.integers(0, 97, 7 - padding)]
    found = []
    for begin, end in ((0, longest - 3), (longest - 3, longest - 1), (longest - 1, longest)):
        shared_rows = opening_of_rows(cache, LEAST_OPENING) if opening and begin else None
        assert (shared_rows is not None) == (opening and begin > 0)
        with answering(model, shared_rows):
            found.append(model(mx.array(ids[:, begin:end]), cache=cache)[:, -1])
    return np.array(mx.stack(found)), cache


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3_moe", "gpt_neox"])
def test_a_model_answers_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mx.random.seed(3)
    model = build_model(CONFIGS[name])
    (quick, _), (shared, _) = (logits(model, opening) for opening in (False, True))
    monkeypatch.setattr("mlx_loopai.models.answering_pass._is_on_cpu", lambda: False)
    plain, _ = logits(model, False)
    assert np.abs(quick - plain).max() < 2e-5
    assert np.abs(shared - plain).max() < 2e-5
    assert not np.array_equal(quick, plain)  # or nothing was exchanged


def test_half_precision_is_left_alone() -> None:
    mx.random.seed(3)
    model = build_model(CONFIGS["llama"])
    model.set_dtype(mx.bfloat16)
    ids = mx.array([[5, 6, 7, 8]])
    plain = model(ids, cache=make_prompt_cache(model))
    with answering(model):
        assert mx.array_equal(model(ids, cache=make_prompt_cache(model)), plain)


def test_mlx_lms_functions_come_back() -> None:
    before = llama.scaled_dot_product_attention, llama.swiglu
    with pytest.raises(RuntimeError), answering(build_model(CONFIGS["llama"])):
        assert llama.scaled_dot_product_attention is not before[0]
        assert llama.swiglu is not before[1]
        raise RuntimeError
    assert (llama.scaled_dot_product_attention, llama.swiglu) == before


def test_what_cannot_share_an_opening() -> None:
    rows = [BatchKVCache([0, 3])]
    assert opening_of_rows(rows, LEAST_OPENING) == Opening(LEAST_OPENING, (0, 3))
    assert opening_of_rows(rows, LEAST_OPENING - 1) is None
    assert opening_of_rows([BatchKVCache([0])], LEAST_OPENING) is None
    assert opening_of_rows([*rows, *make_prompt_cache(build_model(CONFIGS["gemma3_text"]))], LEAST_OPENING) is None


def test_passes_of_two_threads_leave_the_usual_attention() -> None:
    model, usual = build_model(CONFIGS["llama"]), llama.scaled_dot_product_attention
    inside, first_is_over = threading.Event(), threading.Event()

    def second() -> None:
        with answering(model):
            inside.set()
            first_is_over.wait()

    thread = threading.Thread(target=second)
    with answering(model):
        thread.start()
        overlap = inside.wait(0.2)
    first_is_over.set()
    thread.join()
    assert not overlap
    assert llama.scaled_dot_product_attention is usual
