"""docs/conversion.md has the table that the code has."""

from __future__ import annotations

from tools.conversion_keys import DOCUMENT, table, with_table


def test_the_table_is_fresh() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert text == with_table(text), "docs/conversion.md is stale: run `make docs`"


def test_a_cell_breaks_no_row() -> None:
    assert all(line.count("|") == 7 for line in table().splitlines())
