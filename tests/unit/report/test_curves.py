from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_loopai.report.sections.curves import (
    MOST_POINTS,
    bands_of,
    moving_average,
    noisy_figure,
    phase_names,
    thinned,
    value_figure,
)
from mlx_loopai.runs.documents.events import Step
from mlx_loopai.runs.documents.events import steps_of as read_steps
from tests.unit.report.pages import Page, coordinates, steps


def steps_of(rows: list[dict[str, Any]]) -> tuple[Step, ...]:
    return read_steps(rows, "events.jsonl")


VALUES = st.lists(st.none() | st.floats(-1e6, 1e6), min_size=1, max_size=300)


@given(VALUES, st.integers(4, 60))
def test_thinning_keeps_order_and_extremes(values: list[float | None], limit: int) -> None:
    points = list(enumerate(values))
    found = thinned(points, limit)
    assert len(found) <= max(limit, 4) + 2
    assert [x for x, _ in found] == sorted({x for x, _ in found})
    assert set(found) <= set(points)
    known, kept = ([y for _, y in some if y is not None] for some in (points, found))
    if known:
        assert (min(kept), max(kept)) == (min(known), max(known))


@given(VALUES, st.integers(1, 40))
def test_the_moving_average_is_a_mean_of_neighbours(values: list[float | None], window: int) -> None:
    half = window // 2
    for index, (x, mean) in enumerate(moving_average(list(enumerate(values)), window)):
        around = [value for value in values[max(0, index - half) : index + half + 1] if value is not None]
        assert x == index
        assert mean == (pytest.approx(sum(around) / len(around), rel=1e-6, abs=1e-5) if around else None)


def test_bands_follow_the_phases_and_touch() -> None:
    read = steps_of(steps(30, ("a", "b", "c")))
    assert [(band.start, band.end, band.name) for band in bands_of(read)] == [
        (1, 11, "1"),
        (11, 21, "2"),
        (21, 30, "3"),
    ]
    assert phase_names(read) == ["a", "b", "c"]
    assert bands_of(steps_of(steps(5))) == phase_names(steps_of(steps(5))) == []


def test_the_average_does_not_reach_over_a_phase_boundary() -> None:
    rows = steps(40, ("low", "high"))
    for row in rows:
        row["loss"] = 1.0 if row["phase"] == "low" else 9.0
    read = steps_of(rows)
    page = Page()
    page.feed(noisy_figure(read, lambda step: step.loss, "c1", ("Loss", "손실")).markup)
    smooth = [path["d"] or "" for path in page.tags("path") if "faint" not in (path["class"] or "")]
    heights = [{part.split()[1] for part in path.replace("M", "L").split("L") if part} for path in smooth]
    assert [len(one) for one in heights] == [1, 1]


def test_a_long_run_stays_small_and_a_spike_is_seen() -> None:
    rows = steps(20_000)
    rows[11_111]["loss"] = 99.0
    figure = noisy_figure(steps_of(rows), lambda step: step.loss, "c1", ("Loss", "손실")).markup
    assert len(figure) < 60 * MOST_POINTS
    assert "to 99" in figure


def test_skipped_steps_and_gaps() -> None:
    rows = steps(6)
    rows[2] |= {"loss": float("nan"), "skipped": True}
    page = Page()
    page.feed(noisy_figure(steps_of(rows), lambda step: step.loss, "c1", ("Loss", "손실")).markup)
    assert "1 skipped" in page.text
    assert sum(line.get("class") == "flaw" for line in page.tags("line")) == 1
    assert coordinates(page)


def test_nothing_is_drawn_for_a_quantity_that_is_not_there() -> None:
    rows = [row | {"penalty": 0.0} for row in steps(5)]
    assert value_figure(steps_of(rows), lambda step: step.penalty, "c1", ("Penalty", "벌점")) is None
    none = [row | {"loss": None} for row in steps(5)]
    assert "no finite value" in noisy_figure(steps_of(none), lambda step: step.loss, "c1", ("Loss", "손실")).markup
