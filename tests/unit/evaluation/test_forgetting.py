from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_loopai.errors import InputError, LoopaiError
from mlx_loopai.evaluation.forgetting import Retention, gain, gain_interval, retention, usable
from mlx_loopai.evaluation.perplexity import RowLosses
from mlx_loopai.evaluation.probes import ProbeResult


def result(name: str, right: list[bool], chance: float = 0.05) -> ProbeResult:
    return ProbeResult(name, chance, tuple(right), ("",) * len(right), (None,) * len(right), (True,) * len(right))


def verdicts(n_right: int, n: int) -> list[bool]:
    return [index < n_right for index in range(n)]


def plain_retention(base: list[ProbeResult], tuned: list[ProbeResult]) -> tuple[float, float]:
    """The formula of docs/measuring.md, word for word."""
    kept = []
    for before, after in zip(base, tuned, strict=True):
        s0, s, c = (sum(before.right) / len(before.right), sum(after.right) / len(after.right), before.chance)
        kept.append(min(1, (s - c) / (s0 - c)))
    return sum(kept) / len(kept), min(kept)


def slow_interval(base: list[ProbeResult], tuned: list[ProbeResult], resamples: int) -> tuple[float, float]:
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
    a, b = kept.per_probe["a"], kept.per_probe["b"]
    assert a.capped == a.uncapped == pytest.approx((133 / 200 - 0.05) / (190 / 200 - 0.05))
    assert (b.capped, b.uncapped) == (1.0, pytest.approx((198 / 220 - 0.1) / (150 / 220 - 0.1)))
    assert (a.base, a.score, a.n, a.chance) == (0.95, 0.665, 200, 0.05)


def test_churn_is_counted_where_scores_are_equal() -> None:
    """Probe c scores the same before and after, and half of its right answers are others."""
    c = retention(BASE, TUNED).per_probe["c"]
    assert (c.capped, c.right_to_wrong, c.wrong_to_right) == (1.0, 50, 50)
    kept = retention(BASE, TUNED)
    assert kept.right_to_wrong == sum(one.right_to_wrong for one in kept.per_probe.values())


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
    assert all(one.capped == one.uncapped == 1.0 for one in kept.per_probe.values())


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
        ([], [], "none"),
        ([result("a", [True])], [result("b", [True])], "the tuned model b"),
        ([result("a", [True])], [], "the tuned model none"),
        ([result("a", [True, True])], [result("a", [True])], "2 items for the base, 1"),
        ([result("a", [False, True], 0.5)], [result("a", [True, True], 0.5)], "chance is 0.500"),
    ],
)
def test_what_cannot_be_compared(base: list[ProbeResult], tuned: list[ProbeResult], said: str) -> None:
    with pytest.raises(InputError, match=said):
        retention(base, tuned)


def test_probes_near_chance_are_left_out() -> None:
    results = [
        result("good", verdicts(5, 10), 0.1),
        result("weak", verdicts(2, 10), 0.1),
        result("edge", verdicts(5, 10), 0.4),
    ]
    assert usable(results) == ["good"]
    assert usable(results, margin=0.05) == ["good", "weak", "edge"]


def test_gain() -> None:
    assert gain(-4.0, -3.0, -3.0) == 1.0
    assert gain(-4.0, -3.5, -3.0) == 0.5
    assert gain(-4.0, -4.5, -3.0) == -0.5
    assert gain(-4.0, -2.5, -3.0) == 1.5


@pytest.mark.parametrize("plain", [-4.0, -4.1, float("nan")])
def test_gain_needs_a_plain_arm_that_gains(plain: float) -> None:
    with pytest.raises(LoopaiError, match="gain is undefined"):
        gain(-4.0, -3.0, plain)


def losses(per_token: float, noise_seed: int = 0, rows: int = 80) -> RowLosses:
    rng = np.random.default_rng(noise_seed)
    tokens = np.random.default_rng(9).integers(20, 60, rows)
    return RowLosses(tokens * (per_token + 0.1 * rng.standard_normal(rows)), tokens)


def test_gain_interval_holds_the_gain() -> None:
    base, tuned, plain = losses(4.0), losses(3.2, 1), losses(3.0, 2)
    low, high = gain_interval(base, tuned, plain)
    value = gain(-base.nll_per_token, -tuned.nll_per_token, -plain.nll_per_token)
    assert low < value < high
    assert high - low < 0.2
    assert gain_interval(base, tuned, plain) == (low, high)
    assert gain_interval(base, plain, plain) == (1.0, 1.0)


def test_gain_interval_refuses_other_rows_and_no_gain() -> None:
    with pytest.raises(InputError, match="different rows"):
        gain_interval(losses(4.0), losses(3.0, rows=79), losses(3.0))
    with pytest.raises(LoopaiError, match="not clearly above"):
        gain_interval(losses(4.0), losses(4.0, 1), losses(4.0, 2))
