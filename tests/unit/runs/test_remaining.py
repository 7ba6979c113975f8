"""How long a run will still take: what is measured, what was expected, and what a slow machine does to both."""

from __future__ import annotations

import pytest

from mlx_loopai.runs.remaining import Remaining
from mlx_loopai.units import Span

EXPECTED = {"before_s": [10, 20], "steps_s": [100, 200], "after_s": [30, 60]}


@pytest.fixture
def run() -> Remaining:
    """A run that was expected at 1000 s to take 140 to 280 s."""
    run = Remaining()
    run.hear("expected", EXPECTED, 1000.0)
    return run


def begin(run: Remaining, step_s: float, steps: int) -> float:
    """A run of ten steps, in which `steps` of `step_s` seconds each are done; returns the time."""
    run.hear("start", {"total_steps": 10, "resumed_from": None}, 1010.0)
    run.hear("foreseen", {"scored_s": 5.0}, 1010.0)
    for number in range(1, steps + 1):
        run.hear("step", {"step": number}, 1010.0 + step_s * number)
    return 1010.0 + step_s * steps


def test_nothing_is_said_of_a_run_that_nobody_expected_and_that_has_no_pace() -> None:
    run = Remaining()
    assert run.left(0.0) is None
    now = begin(run, 15.0, 1)
    assert run.left(now) is None


def test_before_the_first_step_it_is_what_was_expected(run: Remaining) -> None:
    assert run.left(1000.0) == Span(140.0, 280.0)
    assert run.left(1004.0) == Span(136.0, 276.0)
    assert run.left(1090.0) == Span(130.0, 260.0)  # longer than expected: the parts to come are all still there


def test_a_stage_that_needs_longer_than_expected_counts(run: Remaining) -> None:
    run.hear("stage", {"total": 100}, 1010.0)
    run.hear("progress", {"done": 20}, 1020.0)
    assert run.left(1020.0) == Span(40.0 + 130.0, 40.0 + 260.0)


def test_steps_are_measured_and_what_follows_them_is_added(run: Remaining) -> None:
    now = begin(run, 15.0, 4)
    assert run.left(now) == Span(6 * 15.0 + 5.0 + 30.0, 6 * 15.0 + 5.0 + 60.0)


@pytest.mark.parametrize(("step_s", "factor"), [(40.0, 2.0), (5.0, 0.5), (10.0, 1.0), (20.0, 1.0)])
def test_what_a_slow_machine_does_to_steps_it_does_to_questions(run: Remaining, step_s: float, factor: float) -> None:
    now = begin(run, step_s, 4)
    left = run.left(now)
    assert left is not None
    assert left.low_s - 6 * step_s - 5.0 == pytest.approx(30.0 * factor)
    assert left.high_s - 6 * step_s - 5.0 == pytest.approx(60.0 * factor)


@pytest.mark.parametrize(
    ("step_s", "low_s", "high_s"),
    [
        (20.0, 60.0, 120.0),  # 200 s for all steps: a machine of the speed that was expected
        (40.0, 120.0, 240.0),  # the slowest machine within the range
        (10.0, 30.0, 60.0),  # the fastest
        (80.0, 240.0, 480.0),
        (5.0, 15.0, 30.0),
    ],
)
def test_the_pace_of_the_steps_narrows_what_follows(step_s: float, low_s: float, high_s: float) -> None:
    """100 to 400 s were a factor of 4 for the speed, so the amount of work is known, and so is the speed."""
    run = Remaining()
    run.hear("expected", {"before_s": [0, 0], "steps_s": [100, 400], "after_s": [30, 240], "spread": 4.0}, 1000.0)
    now = begin(run, step_s, 4)
    left = run.left(now)
    assert left is not None
    assert left.low_s - 6 * step_s - 5.0 == pytest.approx(low_s)
    assert left.high_s - 6 * step_s - 5.0 == pytest.approx(high_s)


def test_a_run_that_is_not_judged_ends_with_its_last_step() -> None:
    run = Remaining()
    now = begin(run, 15.0, 4)
    assert run.left(now) == Span(95.0, 95.0)
    run.hear("done", {}, now)
    assert run.left(now) is None


def test_measuring_counts_down_and_ends_with_the_verdict(run: Remaining) -> None:
    now = begin(run, 15.0, 10)
    run.hear("done", {}, now)
    assert run.left(now + 10.0) == Span(20.0, 50.0)
    run.hear("stage", {"total": 100}, now + 55.0)
    run.hear("progress", {"done": 50}, now + 65.0)
    assert run.left(now + 65.0) == Span(10.0, 10.0)
    run.hear("verdict", {"verdict": "pass"}, now + 70.0)
    assert run.left(now + 70.0) is None


def test_a_run_that_goes_on_after_a_pause_counts_only_the_steps_to_come(run: Remaining) -> None:
    begin(run, 15.0, 6)
    run.hear("expected", EXPECTED, 9000.0)
    run.hear("start", {"total_steps": 10, "resumed_from": "checkpoints/step-6"}, 9000.0)
    assert run.left(9000.0) == Span(0.4 * 100.0 + 5.0 + 30.0, 0.4 * 200.0 + 5.0 + 60.0)
    run.hear("step", {"step": 7}, 9015.0)
    run.hear("step", {"step": 8}, 9030.0)
    assert run.left(9030.0) == Span(30.0 + 5.0 + 30.0, 30.0 + 5.0 + 60.0)
