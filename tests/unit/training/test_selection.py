"""Token weights against numpy, and what they do to a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_loopai.config import SelectionOptions
from mlx_loopai.data.tokens import REHEARSAL, TokenRow
from mlx_loopai.models.load import load_model
from mlx_loopai.training.objective import Objective
from mlx_loopai.training.selection import select_tokens
from tests.unit.conftest import batch, row

ROWS = [row(21), row(9, prompt=5, seed=2), row(6, prompt=5)]


@pytest.fixture
def base(tiny_model_folder: Path) -> nn.Module:
    return load_model(str(tiny_model_folder), "fp32").model


def log_softmax(model: nn.Module, one: TokenRow) -> np.ndarray:
    scores = np.array(model(mx.array(one.ids[None, :-1]))[0], np.float64)
    scores -= scores.max(-1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(-1, keepdims=True))


def test_stm_keeps_the_tokens_that_the_base_finds_likely(base: nn.Module) -> None:
    threshold = 300.0
    kept = dropped = 0
    for one, found in zip(
        ROWS, select_tokens(base, ROWS, SelectionOptions(kind="stm", perplexity=threshold)), strict=True
    ):
        assert found.weights is not None
        scores = log_softmax(base, one)
        for place, taught in enumerate(one.supervised):
            likely = taught and np.exp(-scores[place - 1, one.ids[place]]) <= threshold
            assert found.weights[place] == float(likely)
            kept, dropped = kept + int(likely), dropped + int(taught and not likely)
    assert kept
    assert dropped


@pytest.mark.parametrize("top_k", [2, 20, 5000])
def test_eaft_weighs_by_the_entropy_of_the_likeliest(base: nn.Module, top_k: int) -> None:
    for one, found in zip(ROWS, select_tokens(base, ROWS, SelectionOptions(kind="eaft", top_k=top_k)), strict=True):
        assert found.weights is not None
        for place in np.flatnonzero(one.supervised):
            top = np.exp(np.sort(log_softmax(base, one)[place - 1])[-top_k:])
            share = top / top.sum()
            expected = -(share * np.log(share)).sum() / np.log(len(share))
            assert found.weights[place] == pytest.approx(expected, abs=1e-4)
        assert not found.weights[~one.supervised].any()


def test_the_chosen_tokens_share_the_weight_of_all(adapted: Callable[..., nn.Module]) -> None:
    one = replace(ROWS[0], weights=np.where(np.arange(21) % 3 == 0, 1, 0).astype(np.float32) * ROWS[0].supervised)
    (weighed,) = Objective().weigh([batch([one, ROWS[1]])])
    assert weighed.weights is not None
    assert weighed.weights.sum() == pytest.approx(weighed.supervised.sum())
    assert len(np.unique(weighed.weights)) == 2


def test_rehearsal_keeps_its_weight_whatever_is_chosen() -> None:
    chosen = replace(ROWS[0], weights=np.zeros(21, np.float32))
    rehearsed = replace(ROWS[1], category=REHEARSAL)
    (nothing, kept) = Objective().weigh([batch([chosen]), batch([rehearsed])])
    assert nothing.weights is not None
    assert kept.weights is not None
    assert not nothing.weights.any()
    assert kept.weights.sum() == kept.supervised.sum()
