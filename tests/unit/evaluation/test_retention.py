from __future__ import annotations

import random
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_loopai.errors import InputError
from mlx_loopai.evaluation.retention import Retention, chance_of_losing, counted, retention, retention_over_seeds
from mlx_loopai.evaluation.tasks import TaskResult
from tests.unit.evaluation.results import result


def verdicts(n_right: int, n: int) -> list[bool]:
    return [index < n_right for index in range(n)]


def plain_retention(base: list[TaskResult], tuned: list[TaskResult]) -> tuple[float, float]:
    """The formula of docs/measuring.md, word for word."""
    kept = []
    for before, after in zip(base, tuned, strict=True):
        s0, s, c = (sum(before.right) / len(before.right), sum(after.right) / len(after.right), before.chance)
        kept.append(min(1, (s - c) / (s0 - c)))
    return sum(kept) / len(kept), min(kept)


def slow_interval(base: list[TaskResult], tuned: list[TaskResult], resamples: int) -> tuple[float, float]:
    """Items drawn one by one, base and tuned together."""
    rng = random.Random(3)
    means = []
    for _ in range(resamples):
        kept = []
        for before, after in zip(base, tuned, strict=True):
            drawn = [rng.randrange(before.n) for _ in range(before.n)]
            s0, s = (sum(one.right[index] for index in drawn) / before.n for one in (before, after))
            kept.append(min(1.0, (s - before.chance) / (s0 - before.chance)))
        means.append(sum(kept) / len(kept))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


BASE = [
    result("a", verdicts(190, 200), 0.05),
    result("b", verdicts(150, 220), 0.1),
    result("c", verdicts(100, 200), 0.5 - 0.3),
]
TUNED = [
    result("a", [index % 3 != 0 for index in range(200)], 0.05),
    result("b", [index % 10 != 0 for index in range(220)], 0.1),
    result("c", [index % 2 == 0 for index in range(200)], 0.2),
]


def test_retention_is_the_designs_formula() -> None:
    kept = retention(BASE, TUNED)
    assert (kept.mean, kept.minimum) == pytest.approx(plain_retention(BASE, TUNED))
    a, b = kept.per_task["a"], kept.per_task["b"]
    assert a.capped == a.uncapped == pytest.approx((133 / 200 - 0.05) / (190 / 200 - 0.05))
    assert (b.capped, b.uncapped) == (1.0, pytest.approx((198 / 220 - 0.1) / (150 / 220 - 0.1)))
    assert (a.base, a.score, a.n, a.chance) == (0.95, 0.665, 200, 0.05)


def test_churn_is_counted_where_scores_are_equal() -> None:
    """Task c scores the same before and after, and half of its right answers are others."""
    c = retention(BASE, TUNED).per_task["c"]
    assert (c.capped, c.right_to_wrong, c.wrong_to_right) == (1.0, 50, 50)
    kept = retention(BASE, TUNED)
    assert kept.right_to_wrong == sum(one.right_to_wrong for one in kept.per_task.values())


def test_the_interval_is_that_of_a_paired_bootstrap_over_items() -> None:
    kept = retention(BASE, TUNED)
    assert kept.interval == pytest.approx(slow_interval(BASE, TUNED, 1500), abs=0.01)
    assert kept.interval[0] < kept.mean < kept.interval[1]


def test_the_interval_repeats_and_follows_its_seed() -> None:
    assert retention(BASE, TUNED) == retention(BASE, TUNED)
    assert retention(BASE, TUNED, seed=1).interval != retention(BASE, TUNED).interval


def test_worse_than_chance_is_negative() -> None:
    kept = retention([result("a", verdicts(200, 200), 0.1)], [result("a", verdicts(0, 200), 0.1)])
    assert kept.mean == kept.minimum == pytest.approx(-0.1 / 0.9)


flags = st.lists(st.booleans(), min_size=20, max_size=60).filter(lambda right: sum(right) >= 0.3 * len(right))


@given(st.lists(flags, min_size=1, max_size=4))
def test_the_same_answers_are_kept_whole(rights: list[list[bool]]) -> None:
    base = [result(str(index), right) for index, right in enumerate(rights)]
    kept = retention(base, base, resamples=50)
    assert (kept.mean, kept.minimum, kept.right_to_wrong, kept.wrong_to_right) == (1.0, 1.0, 0, 0)
    assert all(one.capped == one.uncapped == 1.0 for one in kept.per_task.values())


@given(flags, st.randoms(use_true_random=False))
def test_the_order_of_items_does_not_matter(right: list[bool], rng: random.Random) -> None:
    tuned = [rng.random() < 0.6 for _ in right]
    order = list(range(len(right)))
    rng.shuffle(order)

    def measured(places: list[int]) -> Retention:
        return retention(
            [result("a", [right[place] for place in places])],
            [result("a", [tuned[place] for place in places])],
            resamples=50,
        )

    assert measured(order) == measured(list(range(len(right))))


@pytest.mark.parametrize(
    ("base", "tuned", "said"),
    [
        ([result("a", [True])], [result("b", [True])], "the tuned model b"),
        ([result("a", [True])], [], "the tuned model none"),
        ([result("a", [True, True])], [result("a", [True])], "2 items for the base, 1"),
        ([], [], "well above chance on no task"),
        ([result("a", [False, True], 0.4)], [result("a", [True, True], 0.4)], r"no task \(a 0.50 \(chance 0.40\)\)"),
    ],
)
def test_what_cannot_be_compared(base: list[TaskResult], tuned: list[TaskResult], said: str) -> None:
    with pytest.raises(InputError, match=said):
        retention(base, tuned)


def test_tasks_near_chance_are_left_out() -> None:
    base = [
        result("good", verdicts(5, 10), 0.1),
        result("weak", verdicts(2, 10), 0.1),
        result("edge", verdicts(5, 10), 0.4),
    ]
    assert counted(base) == ["good"]
    assert list(retention(base, base).per_task) == list(retention_over_seeds(base, [base]).per_task) == ["good"]
    with pytest.raises(InputError, match=r"nothing that it could lose.*give another `suite`"):
        counted(base[1:])


N = 200


def of_n(name: str, right: int, shift: int = 0) -> TaskResult:
    return result(name, [(index + shift) % N < right for index in range(N)], 0.1)


def test_retention_is_the_mean_over_seeds_and_the_worst_task_is_of_the_means() -> None:
    base = [of_n("a", 180), of_n("b", 160)]
    seeds = [[of_n("a", 160), of_n("b", 150)], [of_n("a", 190), of_n("b", 110)]]
    kept = retention_over_seeds(base, seeds)
    each = [retention(base, one) for one in seeds]
    assert kept.mean == pytest.approx(np.mean([one.mean for one in each]))
    assert kept.minimum == pytest.approx(np.mean([(0.75 - 0.1) / (0.8 - 0.1), (0.55 - 0.1) / (0.8 - 0.1)]))
    assert kept.per_task["a"].n == 2 * N
    assert kept.right_to_wrong == sum(one.right_to_wrong for one in each)
    assert kept.interval[0] < kept.mean < kept.interval[1]


def test_one_seed_has_the_interval_of_one_run() -> None:
    base, tuned = [of_n("a", 180), of_n("b", 160)], [of_n("a", 150, shift=10), of_n("b", 120, shift=30)]
    alone, over = retention(base, tuned), retention_over_seeds(base, [tuned])
    assert over.mean == pytest.approx(alone.mean)
    assert over.interval == pytest.approx(alone.interval, abs=0.02)


def test_seeds_that_disagree_widen_the_interval() -> None:
    base = [of_n("a", 180)]
    alike = retention_over_seeds(base, [[of_n("a", 130)]] * 3).interval
    apart = retention_over_seeds(base, [[of_n("a", right)] for right in (80, 130, 180)]).interval
    assert apart[1] - apart[0] > 2 * (alike[1] - alike[0])


def test_other_tasks_are_refused() -> None:
    with pytest.raises(InputError, match="same ones"):
        retention_over_seeds([of_n("a", 180)], [[of_n("b", 180)]])


@pytest.mark.parametrize(("lost", "won"), [(0, 0), (1, 0), (5, 0), (7, 3), (3, 7), (4, 4)])
def test_the_chance_of_losing_is_counted_over_all_ways_to_turn(lost: int, won: int) -> None:
    ways = list(product((0, 1), repeat=lost + won))
    assert chance_of_losing(lost, won) == pytest.approx(sum(sum(way) >= lost for way in ways) / len(ways))
