"""The committed measurements: what docs/memory.md says follows from them, and the prediction keeps its promise."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest

from mlx_loopai.memory.calibration import USUAL, _misfit, errors, fit, is_held_out, ratios, table, transient_table
from mlx_loopai.memory.sizes import EXPERTS, LINEAR_ATTENTION, Constants, fitted
from tools.calibrate import DOCUMENT, EXPERT_RESULTS, LINEAR_RESULTS, RESULTS, read_rows, with_tables

ROWS = read_rows(RESULTS)
HELD = [row for row in ROWS if is_held_out(row)]
LINEAR = read_rows(LINEAR_RESULTS)
EXPERT_ROWS = read_rows(EXPERT_RESULTS)
_START = asdict(Constants())
LINEAR_HELD = [row for row in LINEAR if is_held_out(row)]


def test_enough_was_measured() -> None:
    assert len({str((row["config"], row["options"])) for row in ROWS}) == len(ROWS) >= 60
    assert len(HELD) >= 60
    assert {row["options"]["base_precision"] for row in HELD} == {"fp32", "bf16", "4-bit"}
    vocabularies = {row["config"]["vocab_size"] for row in HELD}
    assert min(vocabularies) <= 4096
    assert max(vocabularies) >= 151936
    assert all(row[key] for row in ROWS for key in ("machine", "mlx", "mlx_lm", "commit", "step_s"))


def test_held_out_errors_are_within_the_promise() -> None:
    found = errors(HELD)
    assert found.median <= 0.05
    assert found.p95 <= 0.12
    assert found.lowest >= 0.95


def test_so_are_those_of_linear_attention_but_for_the_highest() -> None:
    """12 tiny and thin models of three linear blocks and a softmax one; where two moments are near, both may be high."""
    assert len(LINEAR_HELD) == 12
    found = errors(LINEAR_HELD)
    assert found.median <= 0.05
    assert found.lowest >= 0.95


def test_so_are_those_of_experts() -> None:
    """12 tiny and thin models, half of them with adapters on their experts."""
    held = [row for row in EXPERT_ROWS if is_held_out(row)]
    assert len(held) == 12
    assert sum(len(row["options"]["lora_targets"]) > 4 for row in held) == 6
    found = errors(held)
    assert found.median <= 0.05
    assert found.lowest >= 0.9


def test_what_rests_between_steps_is_exact() -> None:
    assert all(abs(ratio - 1) < 0.001 for ratio in ratios(ROWS + LINEAR + EXPERT_ROWS, at_rest=True))


def test_tables_are_those_of_the_results() -> None:
    document = DOCUMENT.read_text(encoding="utf-8")
    assert document == with_tables(document, ROWS, LINEAR, EXPERT_ROWS)
    assert table(ROWS) in document
    assert transient_table(ROWS) in document


@pytest.mark.slow
def test_constants_are_those_of_the_fit() -> None:
    found = fit([row for row in ROWS if not is_held_out(row)])
    assert {name: asdict(found)[name] for name in USUAL} == {name: asdict(fitted())[name] for name in USUAL}


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "names"), [(LINEAR, LINEAR_ATTENTION), (EXPERT_ROWS, EXPERTS)])
def test_constants_of_their_own_are_those_of_the_fit(rows: list[dict[str, Any]], names: tuple[str, ...]) -> None:
    start = replace(fitted(), **{name: _START[name] for name in names})
    assert fit([row for row in rows if not is_held_out(row)], names, start=start) == fitted()


def test_a_short_fit_is_better_than_none() -> None:
    rows = ROWS[:12]
    assert _misfit(rows, fit(rows, trials=60)) < _misfit(rows, Constants())
