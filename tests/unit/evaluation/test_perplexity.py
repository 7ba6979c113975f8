from __future__ import annotations

import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_loopai.config import LoraOptions
from mlx_loopai.data.tokens import TokenRow
from mlx_loopai.errors import InputError
from mlx_loopai.evaluation.perplexity import RowLosses, nll
from mlx_loopai.models.load import build_model
from mlx_loopai.models.lora import apply_lora

VOCABULARY = 50
CONFIG = {
    "model_type": "qwen2",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "rms_norm_eps": 1e-6,
    "vocab_size": VOCABULARY,
    "tie_word_embeddings": True,
    "max_position_embeddings": 128,
    "rope_theta": 10000.0,
}


@pytest.fixture(scope="module")
def model() -> nn.Module:
    mx.random.seed(0)
    return build_model(CONFIG)


@pytest.fixture(scope="module")
def rows() -> list[TokenRow]:
    rng = np.random.default_rng(0)
    found = []
    for index, length in enumerate([2, 31, 7, 7, 19, 3, 40]):
        supervised = rng.random(length) < 0.6
        supervised[0], supervised[-1] = False, True
        found.append(
            TokenRow(rng.integers(0, VOCABULARY, length).astype(np.int32), supervised, f"row {index}", "general")
        )
    return found


def reference(model: nn.Module, row: TokenRow) -> float:
    """One row alone, whole logits, plain numpy in double precision."""
    logits = np.array(model(mx.array(row.ids[None, :-1])), dtype=np.float64)[0]
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return -sum(logp[place - 1, row.ids[place]] for place in range(1, len(row.ids)) if row.supervised[place])


@pytest.mark.parametrize(("micro_tokens", "chunk_rows"), [(10_000, 256), (64, 256), (1, 1), (64, 5)])
def test_every_row_equals_the_reference(
    model: nn.Module, rows: list[TokenRow], micro_tokens: int, chunk_rows: int
) -> None:
    found = nll(model, rows, micro_tokens, chunk_rows)
    np.testing.assert_allclose(found.nll, [reference(model, row) for row in rows], rtol=1e-4)
    assert found.tokens.tolist() == [int(row.supervised.sum()) for row in rows]


def test_per_token_figures(model: nn.Module, rows: list[TokenRow]) -> None:
    found = nll(model, rows)
    assert found.nll_per_token == pytest.approx(found.nll.sum() / found.tokens.sum())
    assert found.perplexity == pytest.approx(math.exp(found.nll_per_token))
    assert RowLosses(np.array([1e6]), np.array([1])).perplexity == math.inf


def test_dropout_is_off_and_the_mode_comes_back(rows: list[TokenRow]) -> None:
    mx.random.seed(1)
    model = build_model(CONFIG)
    for layer in apply_lora(model, LoraOptions(dropout=0.5), seed=0).values():
        layer.lora_b = mx.random.normal(layer.lora_b.shape)
    model.train()
    first, second = nll(model, rows), nll(model, rows)
    assert np.array_equal(first.nll, second.nll)
    assert model.training


def test_progress_counts_rows(model: nn.Module, rows: list[TokenRow]) -> None:
    seen: list[int] = []
    nll(model, rows, micro_tokens=40, on_progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == len(rows)


def test_no_rows(model: nn.Module) -> None:
    with pytest.raises(InputError, match="no row"):
        nll(model, [])
