"""An opening that all rows share is computed once, with the states, losses and gradients of whole rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx.utils import tree_flatten

from mlx_loopai.models import backbone
from mlx_loopai.models.backbone import hidden_states
from mlx_loopai.models.gradient import LossForm, Targets, compiled_gradient, eager_gradient
from mlx_loopai.models.load import load_model
from mlx_loopai.models.micro_batch import MicroBatch, opening_of
from mlx_loopai.models.pass_sizes import LEAST_SHARED, LONGEST_KEPT, OPENING_STEP
from mlx_loopai.models.shared_opening import SharedOpening, can_share
from tests.tiny_architectures import CONFIGS, TOLERANCES, write_architecture
from tests.unit.conftest import batch, row

ROWS, TOKENS = 3, 23
CANNOT = {"gpt_neox", "qwen3_5", "qwen3_5_moe"}


def opened(tokens: int, opening: int, rows: int = ROWS) -> np.ndarray:
    """Random rows (B, T) that begin alike."""
    ids = np.random.default_rng(tokens).integers(3, 120, (rows, tokens)).astype(np.int32)
    ids[:, :opening] = ids[0, :opening]
    ids[:, opening] = np.arange(rows)
    return ids


@pytest.mark.parametrize("name", CONFIGS)
def test_states_are_those_of_whole_rows(name: str, tmp_path: Path, tiny_model_folder: Path) -> None:
    model = load_model(str(write_architecture(tmp_path / "model", name, tiny_model_folder)), "fp32").model
    kind, window = CONFIGS[name]["model_type"], CONFIGS[name].get("sliding_window") or TOKENS
    # Rows that fit into a window of the attention share their opening, longer ones do not.
    for tokens in {TOKENS, min(TOKENS, window)}:
        opening = tokens * 2 // 3
        ids = mx.array(opened(tokens, opening))
        whole = np.array(hidden_states(model, ids, opening=0))
        error = TOLERANCES.get(kind, 1e-5) * max(1, np.abs(whole).max())
        np.testing.assert_allclose(np.array(hidden_states(model, ids, opening=opening)), whole, atol=error)
        rows, columns = mx.array([2, 0, 1, 1]), mx.array([tokens - 1, opening - 1, 1, opening])
        chosen = hidden_states(model, ids, positions=(rows, columns), opening=opening)
        np.testing.assert_allclose(np.array(chosen), whole[np.array(rows), np.array(columns)], atol=error)
        assert can_share(model, tokens) == (kind not in CANNOT and tokens <= window)


@pytest.mark.parametrize("form", [eager_gradient, compiled_gradient])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("tokens", [TOKENS, LONGEST_KEPT + 20])
def test_losses_and_gradients_are_those_of_whole_rows(
    adapted: Callable[..., nn.Module], form: Callable, checkpointing: bool, tokens: int
) -> None:
    ids, opening = opened(tokens, tokens // 24 * 16), tokens // 24 * 16
    supervised = np.zeros(ids.shape, np.bool_)
    supervised[:, -6:] = True
    given = MicroBatch(ids, supervised, divergence=supervised.astype(np.float32))
    found = []
    for shared in (0, opening):
        model = adapted()
        model.train()
        run = form(model, LossForm(chunk_rows=8, checkpointing=checkpointing))
        (loss, apart), gradient = run(mx.array(ids[:, :-1]), Targets.of(given), None, shared)
        values = {name: np.array(array) for name, array in tree_flatten(gradient)}
        found.append((float(loss), float(apart), values))
    (whole, whole_apart, expected), (loss, apart, values) = found
    assert loss == pytest.approx(whole, rel=1e-5)
    assert apart == pytest.approx(whole_apart, rel=1e-4)
    assert apart > 0
    for name, array in expected.items():
        assert np.abs(values[name] - array).max() <= 2e-5 * np.abs(array).max() + 1e-9, name


def test_a_model_with_dropout_computes_whole_rows(adapted: Callable[..., nn.Module]) -> None:
    model = adapted(0.5)
    assert can_share(model.eval(), TOKENS)
    assert not can_share(model.train(), TOKENS)


@given(st.integers(1, 6), st.integers(2, 60), st.integers(0, 60))
def test_an_opening_is_one_of_all_rows_and_worth_it(rows: int, tokens: int, equal: int) -> None:
    ids = opened(tokens, min(equal, tokens - 1), rows)
    found = opening_of(ids)
    assert found % OPENING_STEP == 0
    assert found <= max(equal, 0)
    assert found < tokens
    assert (ids[:, :found] == ids[0, :found]).all()
    if rows == 1:
        assert found == 0
    longest = min(equal, tokens - 1) // OPENING_STEP * OPENING_STEP
    assert found in (0, longest)
    assert (found > 0) == (longest > 0 and (rows - 1) * longest >= LEAST_SHARED * rows * tokens)


def test_states_find_the_opening_themselves(adapted: Callable[..., nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    shared: list[SharedOpening] = []

    def noted(**sizes: int) -> SharedOpening:
        shared.append(SharedOpening(**sizes))
        return shared[-1]

    monkeypatch.setattr(backbone, "SharedOpening", noted)
    model, ids = adapted(), opened(TOKENS, 17)
    for opening in (None, 16, 0):
        hidden_states(model, mx.array(ids), opening=opening)
    assert shared == [SharedOpening(rows=ROWS, tokens=TOKENS, opening=16)] * 2


def test_a_batch_knows_its_opening() -> None:
    rows = [row(40, seed) for seed in range(3)]
    for one in rows:
        one.ids[:20] = 7
    assert batch(rows).opening == 16
    assert batch(rows[:1]).opening == 0
