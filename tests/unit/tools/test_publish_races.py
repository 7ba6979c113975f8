from __future__ import annotations

from pathlib import Path

import pytest

from mlx_loopai.runs.documents.race import Machine, read_race
from tools.publish_races import DOCUMENT, NOT_MEASURED, RESULTS, with_results

DOCUMENT_OF_TWO = (
    "a\n<!-- result one: begin -->\nold\n<!-- result one: end -->\nb\n"
    "<!-- result mac-one: begin -->\n<!-- result mac-one: end -->\nc\n"
)


def test_a_table_is_filled_where_there_is_a_result(tmp_path: Path) -> None:
    measured = next(RESULTS.glob("linux-train-*.json"), None)
    if measured is None:
        pytest.skip("no race is committed yet")
    (tmp_path / "one.json").write_text(measured.read_text(encoding="utf-8"), encoding="utf-8")
    document = with_results(DOCUMENT_OF_TWO, tmp_path)
    assert "old" not in document
    assert "| supervised tokens/s |" in document
    assert read_race(measured).command in document
    assert f"begin -->\n{NOT_MEASURED}\n<!-- result mac-one: end" in document
    assert with_results(document, tmp_path) == document


def test_the_committed_tables_are_current() -> None:
    document = DOCUMENT.read_text(encoding="utf-8")
    assert with_results(document, RESULTS) == document


def test_committed_results_computed_the_same_and_are_shown() -> None:
    document = DOCUMENT.read_text(encoding="utf-8")
    for path in RESULTS.glob("*.json"):
        assert read_race(path).equal, path
        assert f"<!-- result {path.stem}: begin -->" in document


def test_no_mac_figure_is_claimed_without_a_mac() -> None:
    for path in RESULTS.glob("mac-*.json"):
        assert (read_race(path).machine or Machine(chip="")).chip.startswith("Apple ")
