"""README's table and picture are what the committed result says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mlx_loopai.report import publish


@pytest.mark.parametrize("path", publish.READMES, ids=lambda path: path.name)
def test_the_readme_holds_the_table_of_the_committed_result(path: Path) -> None:
    readme = path.read_text(encoding="utf-8")
    comparison = publish.read_result()
    assert publish.table(comparison) in readme
    assert publish.with_table(readme, comparison) == readme


def test_the_picture_is_drawn_from_the_committed_result() -> None:
    assert publish.PICTURE.read_text(encoding="utf-8") == publish.picture(publish.read_result())


def test_the_experiments_hold_the_tables_of_the_committed_comparisons() -> None:
    experiments = publish.EXPERIMENTS.read_text(encoding="utf-8")
    for path in publish.RESULT.parent.glob("compare-*.json"):
        assert publish.arms_table(publish.read_result(path)) in experiments
    assert publish.with_arms_tables(experiments) == experiments


def test_an_arms_table_has_one_row_an_arm_and_one_column_a_text() -> None:
    read = publish.read_result()
    arms = tuple(replace(arm, figures={**arm.figures, "general_nll": {"maths": 1.25}}) for arm in read.arms)
    comparison = replace(read, arms=arms)
    head, _, *rows = publish.arms_table(comparison).splitlines()[: 2 + len(comparison.arms)]
    assert head.endswith("| maths |")
    assert [row.split(" | ")[0] for row in rows] == [f"| {arm.name}" for arm in comparison.arms]
    assert all(row.endswith("| 1.250 |") for row in rows)
    assert all(row.count("|") == head.count("|") for row in rows)
