"""The controller of the forgetting budget, against a model of a run that forgets less the more its guards weigh."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_loopai.guards.budget import (
    AIM,
    ALLOWANCE,
    EARLY,
    HIGHEST_ERROR,
    INTEGRAL,
    INTEGRAL_STEPS,
    LOWEST_ERROR,
    PRIOR_ROWS,
    PROPORTIONAL,
    WIDEST,
    GuardWeight,
    KindReading,
    distance,
)

BUDGET = 0.02


def run(start: float, readings: int = 30) -> tuple[list[float], list[float]]:
    """Readings of a run whose distance follows, bit by bit, what its guards' weight allows: 0.02 / weight^0.7, and twice
    that while the learning rate is at its peak, as on two real models (docs/experiments.md).
    """
    weight, apart = GuardWeight(), 0.0
    read, factors = [], []
    for number in range(readings):
        rate = 0.5 * (1 + math.cos(math.pi * number / readings))
        wanted = (1 + rate) * BUDGET / (start * weight.factor) ** 0.7
        apart += 0.5 * max(rate, 0.05) * (wanted - apart)
        weight = weight.after(apart, BUDGET, INTEGRAL_STEPS * (number + 1) // 2, rate)
        read.append(apart)
        factors.append(weight.factor)
    return read, factors


@pytest.mark.parametrize("start", [0.01, 0.1, 1.0, 10.0, 100.0])
def test_a_run_ends_inside_its_budget_wherever_it_began(start: float) -> None:
    read, _ = run(start)
    assert read[-1] <= BUDGET * 1.05
    assert read[-1] >= BUDGET * 0.3


def test_by_hand() -> None:
    first = GuardWeight().after(AIM * BUDGET * math.e, BUDGET, INTEGRAL_STEPS)
    assert first.log_factor == pytest.approx(INTEGRAL + PROPORTIONAL * (1 - LOWEST_ERROR))
    second = first.after(AIM * BUDGET, BUDGET, INTEGRAL_STEPS + 3)
    assert second.log_factor == pytest.approx(first.log_factor - PROPORTIONAL)
    assert second.error == pytest.approx(0.0)


def test_a_run_may_be_further_away_while_its_rate_has_yet_to_fall() -> None:
    early = GuardWeight(error=0.0).after(AIM * BUDGET * (1 + EARLY), BUDGET, 5, still_to_fall=1.0)
    assert early.log_factor == pytest.approx(0.0)
    assert early.after(AIM * BUDGET * (1 + EARLY), BUDGET, 10).factor > 1


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=60), st.floats(1e-6, 10.0))
def test_the_weight_stays_within_its_bounds(readings: list[float], budget: float) -> None:
    weight = GuardWeight()
    for number, reading in enumerate(readings):
        weight = weight.after(reading, budget, 10 * number)
        assert 1 / WIDEST - 1e-12 <= weight.factor <= WIDEST * (1 + 1e-12)
        assert LOWEST_ERROR - 1e-9 <= weight.error <= HIGHEST_ERROR


def test_a_run_that_does_not_move_needs_less_and_one_that_leaps_needs_more() -> None:
    """The first reading counts as a change: at the aim after a few steps is too fast, unmoved is only unspent."""
    assert GuardWeight().after(AIM * BUDGET, BUDGET, 5).factor > 1
    assert GuardWeight().after(0.0, BUDGET, INTEGRAL_STEPS).log_factor == pytest.approx(INTEGRAL * LOWEST_ERROR)


def test_a_weight_at_its_bound_comes_back_at_the_first_reading_below() -> None:
    weight = GuardWeight()
    for number in range(100):
        weight = weight.after(1.0, BUDGET, 10 * number)
    assert weight.factor == pytest.approx(WIDEST)
    assert weight.after(0.0, BUDGET, 1000).factor < WIDEST / 2


def test_the_next_weight_depends_on_the_state_alone() -> None:
    """What a checkpoint keeps is enough to go on exactly."""
    weight = GuardWeight().after(0.1, BUDGET, 5).after(0.01, BUDGET, 10)
    again = GuardWeight(weight.log_factor, weight.error, weight.step)
    assert again.after(0.03, BUDGET, 15) == weight.after(0.03, BUDGET, 15)


KIND_READINGS = st.lists(
    st.tuples(st.floats(0, 5), st.integers(1, 400), st.integers(1, 12)), min_size=1, max_size=9
).map(
    lambda found: {f"k{n}": KindReading(apart * tokens, tokens, rows) for n, (apart, tokens, rows) in enumerate(found)}
)


@given(KIND_READINGS)
def test_what_is_spent_against_numpy(kinds: dict[str, KindReading]) -> None:
    names = list(kinds)
    nats, tokens, rows = (
        np.array([getattr(kinds[name], part) for name in names]) for part in ("nats", "tokens", "rows")
    )
    mean = nats.sum() / tokens.sum()
    judged = (rows * (nats / tokens) + PRIOR_ROWS * mean) / (rows + PRIOR_ROWS)
    found = distance(kinds)
    assert found.divergence == pytest.approx(mean)
    assert found.spent == pytest.approx(max(mean, judged.max() / ALLOWANCE))
    place = names.index(found.furthest)
    assert judged[place] == pytest.approx(judged.max())
    assert found.furthest_divergence == pytest.approx(nats[place] / tokens[place])


def test_one_odd_answer_does_not_count_as_much_as_four() -> None:
    def spent(rows: int) -> float:
        others = {name: KindReading(0.01 * 200, 200, 8) for name in ("korean", "english", "sums")}
        return distance(others | {"chinese": KindReading(0.1 * 25 * rows, 25 * rows, rows)}).spent

    assert 0.01 < spent(1) < 0.6 * spent(4)


def test_of_equal_models_nothing_is_spent() -> None:
    """Rounding can put their KL a hair below 0."""
    assert distance({"korean": KindReading(-1e-7, 10, 1), "sums": KindReading(0.0, 5, 1)}).spent == 0


@pytest.mark.parametrize("start", [0.01, 1.0, 100.0])
def test_no_kind_ends_far_outside_though_all_but_one_are_near(start: float) -> None:
    """A kind that moves eight times as far as the others, in which the mean over all has room to lose it."""
    weight, apart = GuardWeight(), 0.0
    for number in range(40):
        rate = 0.5 * (1 + math.cos(math.pi * number / 40))
        wanted = (1 + rate) * BUDGET / (start * weight.factor) ** 0.7
        apart += 0.5 * max(rate, 0.05) * (wanted - apart)
        kinds = {f"k{n}": KindReading(apart * 100 * (8.0 if n == 0 else 1.0), 100, 4) for n in range(8)}
        read = distance(kinds)
        weight = weight.after(read.spent, BUDGET, INTEGRAL_STEPS * (number + 1) // 2, rate)
    assert read.furthest == "k0"
    # Of a kind of four rows two thirds are its own KL.
    assert read.furthest_divergence <= ALLOWANCE * BUDGET * 1.5
    assert read.spent <= BUDGET * 1.05
    assert read.divergence < 0.6 * BUDGET
