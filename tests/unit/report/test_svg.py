from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_loopai.report.kit.svg import HEIGHT, WIDTH, Axis, Band, Curve, Spot, line_chart, scatter
from tests.unit.report.pages import Page, coordinates

NUMBERS = st.floats(allow_nan=True, allow_infinity=True)


def drawn(markup: str) -> Page:
    page = Page()
    page.feed(markup)
    page.close()
    assert page.problems == []
    return page


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 10**9), st.none() | NUMBERS), max_size=30), st.lists(NUMBERS, max_size=3))
def test_every_coordinate_is_finite_and_inside(points: list[tuple[int, float | None]], shared: list[float]) -> None:
    points.sort(key=lambda point: point[0])
    bands = [Band(points[0][0], points[-1][0], "1"), Band(points[-1][0], points[-1][0], "2")] if points else []
    page = drawn(line_chart([Curve(points, "c1")], "loss", bands, shared, flaws=[point[0] for point in points]).markup)
    assert all(-1 <= value <= max(WIDTH, HEIGHT) for value in coordinates(page))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(*[st.floats(-1e12, 1e12)] * 2, st.text(max_size=40)), min_size=1, max_size=12))
def test_spots_stay_inside(values: list[tuple[float, float, str]]) -> None:
    spots = [Spot(name, x, y, (x - 1, x + 1), None, "c2") for x, y, name in values]
    page = drawn(scatter(spots, "label", ("x", "가로"), ("y", "세로"), floor=0.95).markup)
    assert all(-1 <= value <= WIDTH for value in coordinates(page))
    assert len(page.tags("circle")) == len(spots)


@given(NUMBERS, NUMBERS, st.booleans())
def test_ticks_are_round_few_and_on_the_axis(low: float, high: float, whole: bool) -> None:
    axis = Axis.over([low, high], 0.0, 100.0)
    ticks = axis.ticks(whole)
    assert len(ticks) <= 11
    slack = 1e-9 * max(1.0, abs(axis.low), abs(axis.high))
    assert all(axis.low - slack <= tick <= axis.high + slack for tick in ticks)
    assert not whole or all(tick == int(tick) for tick in ticks)


@pytest.mark.parametrize(
    ("low", "high", "ticks"), [(0, 1, [0, 0.25, 0.5, 0.75, 1]), (0, 4, [0, 1, 2, 3, 4]), (3, 11, [4, 6, 8, 10])]
)
def test_ticks_by_example(low: float, high: float, ticks: list[float]) -> None:
    assert Axis(low, high, 0, 1).ticks() == pytest.approx(ticks)


def test_an_axis_without_extent_has_some() -> None:
    assert Axis.over([], 0, 10) == Axis(-0.06, 1.06, 0, 10)
    flat = Axis.over([5.0, 5.0], 0, 10)
    assert flat.low < 5 < flat.high
    assert flat.at(5.0) == pytest.approx(5)
    assert (flat.at(-math.inf), flat.at(math.inf)) == (0, 10)


def test_a_gap_lifts_the_pen_and_a_lone_point_is_seen() -> None:
    points = [(1, 1.0), (2, 2.0), (3, None), (4, 1.0), (5, math.nan), (6, 3.0), (7, 1.0)]
    page = drawn(line_chart([Curve(points, "c1")], "loss").markup)
    path = page.tags("path")[0]["d"]
    assert path is not None
    assert (path.count("M"), path.count("L")) == (3, 2)
    assert len(page.tags("circle")) == 1


def test_close_labels_do_not_cover_each_other() -> None:
    spots = [Spot(f"arm{number}", 0.98, 0.96 + number / 1000, None, None, "c2") for number in range(4)]
    page = drawn(scatter(spots, "label", ("x", "가로"), ("y", "세로"), floor=0.95).markup)
    heights = sorted(float(text["y"] or 0) for text in page.tags("text") if "name" in (text["class"] or ""))
    assert all(after - before >= 13.9 for before, after in pairwise(heights))
