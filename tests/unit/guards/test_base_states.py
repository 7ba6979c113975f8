"""States of the base that other runs find."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mlx_loopai.files import is_sealed, seal
from mlx_loopai.guards import base_states
from mlx_loopai.guards.base_states import with_base_states
from mlx_loopai.models.load import load_model
from tests.unit.conftest import row

ROWS = [row(6, 1), row(9, 2), row(5, 3)]


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of rows of each forward pass."""
    found: list[int] = []
    original = base_states.hidden_states

    def noted(model, ids, **named):  # type: ignore[no-untyped-def]
        found.append(len(ids))
        return original(model, ids, **named)

    monkeypatch.setattr(base_states, "hidden_states", noted)
    return found


def test_another_run_finds_the_same_states(tiny_model_folder: Path, tmp_path: Path, computed: list[int]) -> None:
    model, kept, told = load_model(str(tiny_model_folder), "fp32").model, tmp_path / "cache" / "states.npy", []
    alone = with_base_states(model, ROWS, tmp_path)
    first = with_base_states(model, ROWS, tmp_path, kept=kept)
    passes = sum(computed)
    again = with_base_states(model, ROWS, tmp_path, told.append, kept)
    assert sum(computed) == passes == 2 * len(ROWS)
    assert told == [len(ROWS)]
    for mine, stored, found in zip(alone, first, again, strict=True):
        np.testing.assert_array_equal(mine.base_states, stored.base_states)
        np.testing.assert_array_equal(stored.base_states, found.base_states)


def test_a_change_of_the_kept_file_does_not_reach_a_run_that_has_read_it(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    model, kept = load_model(str(tiny_model_folder), "fp32").model, tmp_path / "states.npy"
    with_base_states(model, ROWS, tmp_path, kept=kept)
    found = with_base_states(model, ROWS, tmp_path, kept=kept)
    before = [np.array(one.base_states) for one in found]
    stored = np.load(kept, mmap_mode="r+")
    stored[:] = 0
    stored.flush()
    for one, expected in zip(found, before, strict=True):
        np.testing.assert_array_equal(one.base_states, expected)


@pytest.mark.parametrize("damage", ["one number", "cut short", "other shape", "no seal"])
def test_a_damaged_file_is_made_anew(tiny_model_folder: Path, tmp_path: Path, computed: list[int], damage: str) -> None:
    model, kept = load_model(str(tiny_model_folder), "fp32").model, tmp_path / "states.npy"
    expected = with_base_states(model, ROWS, tmp_path, kept=kept)
    if damage == "one number":
        stored = np.load(kept, mmap_mode="r+")
        stored[0, 0] += 1
        stored.flush()
    elif damage == "cut short":
        kept.write_bytes(kept.read_bytes()[:-4])
    elif damage == "other shape":
        np.save(kept, np.zeros((1, 1), np.float32))
        seal(kept)
    else:
        kept.with_name("states.npy.sha256").unlink()
    computed.clear()
    found = with_base_states(model, ROWS, tmp_path, kept=kept)
    assert sum(computed) == len(ROWS)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.base_states, other.base_states)
    assert is_sealed(kept)


def test_states_of_very_many_tokens_are_left_to_each_run(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, kept = load_model(str(tiny_model_folder), "fp32").model, tmp_path / "states.npy"
    monkeypatch.setattr(base_states, "MOST_KEPT_BYTES", 0)
    with_base_states(model, ROWS, tmp_path, kept=kept)
    assert not kept.exists()
