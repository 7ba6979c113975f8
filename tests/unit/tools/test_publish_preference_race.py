"""The tables of the race on pairs are those of its result files, whose sides computed the same."""

from __future__ import annotations

import json

from tools.doc_markers import with_marked
from tools.publish_preference_race import DOCUMENT, NAME, RESULTS, tables


def test_the_tables_are_those_of_the_results() -> None:
    document = DOCUMENT.read_text(encoding="utf-8")
    assert document == with_marked(document, NAME, tables(RESULTS), DOCUMENT)


def test_both_sides_computed_the_same() -> None:
    files = list(RESULTS.glob("preference-race-*.json"))
    assert files
    for file in files:
        found = json.loads(file.read_text(encoding="utf-8"))
        assert found["equal"]
        assert found["ratios"]["peak_bytes"]["median"] < 1
