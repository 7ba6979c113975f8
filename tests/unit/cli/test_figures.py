"""Tables of figures, in both languages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

import pytest

from mlx_loopai.cli.figures import FIGURES, figure, table
from mlx_loopai.cli.output import columns
from mlx_loopai.language import use
from mlx_loopai.runs.documents.comparison import ArmResult


@pytest.fixture
def korean() -> Iterator[None]:
    use("ko")
    yield
    use("en")


def test_the_columns_line_up_where_a_syllable_is_two_wide() -> None:
    rows = [["", "원래 모델", "b"], ["보존율(GR)", "1.000", "-0.039"], ["x", "–", "0.5"]]
    lines = table(rows)
    assert [columns(line) for line in lines] == [columns(lines[0])] * 3
    assert [line.split()[0] for line in lines[1:]] == ["보존율(GR)", "x"]
    assert lines[0].endswith(" b")


def test_every_figure_is_an_arms_and_has_a_korean_name(korean: None) -> None:
    assert FIGURES.keys() <= {one.name for one in fields(ArmResult)}
    assert all(figure(field) != FIGURES[field] for field in FIGURES)
    assert figure("retention") == "보존율(GR)"
