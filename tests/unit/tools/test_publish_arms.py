"""The arms' table: a row an arm with its intervals, between the document's markers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlx_loopai.errors import InputError
from mlx_loopai.runs.documents.comparison import Comparison
from tools import publish_arms as arms


@pytest.fixture
def compared(document: dict[str, Any]) -> Comparison:
    document["arms"]["plain"] |= {"step_s": 0.5, "retention_interval": [0.15, 0.25], "right_to_wrong": 7}
    document["arms"]["guarded"] |= {"step_s": 0.51, "learning_rate": 0.002}
    return Comparison.from_json(document | {"seeds": [0, 1, 2]}, "compare.json")


def test_every_arm_has_a_row_and_the_command_stands_under_them(compared: Comparison) -> None:
    table = arms.table(compared, "arms")
    rows = {row.split(" | ")[0].strip("| "): row for row in table.splitlines() if row.startswith("|")}
    assert list(rows)[2:] == ["base", "plain", "guarded"]
    assert "0.200 (0.150 to 0.250)" in rows["plain"]
    assert rows["guarded"].startswith("| guarded | 0.002 | ")
    assert rows["guarded"].endswith("| 1.02 x |")
    assert "`mlx-loopai demo --seed 0`, seeds 0, 1, 2" in table
    assert arms.drawing(compared).startswith("<svg")


def test_what_no_table_needs_is_left_out_of_the_result(compared: Comparison, tmp_path: Path) -> None:
    path = tmp_path / "compare.json"
    compared.write(path)
    kept = arms.read_result(path)
    plain = kept.arms["plain"]
    assert (plain.curve, plain.examples, plain.settings) == ((), (), "")
    assert arms.table(kept, "arms") == arms.table(compared, "arms")


def test_likelihoods_of_several_texts_are_the_last_columns(compared: Comparison) -> None:
    scored = {name: replace(arm, general_nll={"maths": 1.25, "code": 0.5}) for name, arm in compared.arms.items()}
    compared = replace(compared, arms=scored)
    head, _, *rows = [line for line in arms.table(compared, "arms").splitlines() if line.startswith("|")]
    assert head.endswith("| NLL maths | NLL code |")
    assert all(row.endswith("| 1.250 | 0.500 |") for row in rows)


def test_a_document_without_markers_is_refused(compared: Comparison) -> None:
    begin, end = "<!-- arms table: begin -->", "<!-- arms table: end -->"
    text = f"# Experiments\n{begin}\nold\n{end}\nend\n"
    table = arms.table(compared, "arms")
    assert arms.with_table(text, compared, "arms") == f"# Experiments\n{begin}\n{table}\n{end}\nend\n"
    with pytest.raises(InputError, match="markers"):
        arms.with_table("# Experiments\n", compared, "arms")


@pytest.mark.parametrize("name", ["arms", "real"])
def test_the_committed_table_is_made_from_the_committed_result(name: str) -> None:
    text = arms.DOCUMENT.read_text(encoding="utf-8")
    document = arms.read_result(arms.result(name))
    assert arms.with_table(text, document, name) == text
    assert arms.drawn(name).read_text(encoding="utf-8") == arms.drawing(document)
