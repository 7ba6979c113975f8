"""The table of rescalings is what its result file says."""

from __future__ import annotations

from tools import publish_rescalings as rescalings


def test_the_committed_table_is_made_from_the_committed_result() -> None:
    text = rescalings.DOCUMENT.read_text(encoding="utf-8")
    assert rescalings.with_table(text, rescalings.read_result()) == text


def test_every_run_has_its_gain_and_what_it_keeps_in_a_row() -> None:
    point = {"rescaling": {"first": 0.25, "last": 1.0}, "gain": 0.5, "retention": 0.9}
    found = rescalings.table({"one": [point], "two": [point | {"gain": 0.75}]})
    assert found.splitlines()[-1] == "| 0.25 | 1 | 0.500 | 0.900 | 0.750 | 0.900 |"
    assert "one: gain | one: kept | two: gain | two: kept" in found
