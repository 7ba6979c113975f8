"""Figures over seeds: against the definitions written out, and intervals that know of the seeds."""

from __future__ import annotations

import numpy as np
import pytest

from mlx_loopai.errors import InputError, LoopaiError
from mlx_loopai.evaluation.forgetting import gain_interval, retention
from mlx_loopai.evaluation.perplexity import RowLosses
from mlx_loopai.evaluation.probes import ProbeResult
from mlx_loopai.evaluation.seeds import gain_over_seeds, retention_over_seeds, smallest_within_noise

N = 200


def result(name: str, right: int, shift: int = 0) -> ProbeResult:
    verdicts = tuple((index + shift) % N < right for index in range(N))
    return ProbeResult(name, 0.1, verdicts, ("",) * N, (None,) * N, (True,) * N)


def losses(mean: float, noise: float = 0.1, seed: int = 0, rows: int = 50) -> RowLosses:
    tokens = np.random.default_rng(3).integers(5, 20, rows)
    return RowLosses(tokens * (mean + noise * np.random.default_rng(seed).standard_normal(rows)), tokens)


def test_retention_is_the_mean_over_seeds_and_the_worst_probe_is_of_the_means() -> None:
    base = [result("a", 180), result("b", 160)]
    seeds = [[result("a", 160), result("b", 150)], [result("a", 190), result("b", 110)]]
    kept = retention_over_seeds(base, seeds)
    each = [retention(base, one) for one in seeds]
    assert kept.mean == pytest.approx(np.mean([one.mean for one in each]))
    assert kept.minimum == pytest.approx(np.mean([(0.75 - 0.1) / (0.8 - 0.1), (0.55 - 0.1) / (0.8 - 0.1)]))
    assert kept.per_probe["a"].n == 2 * N
    assert kept.right_to_wrong == sum(one.right_to_wrong for one in each)
    assert kept.interval[0] < kept.mean < kept.interval[1]


def test_one_seed_has_the_interval_of_one_run() -> None:
    base, tuned = [result("a", 180), result("b", 160)], [result("a", 150, shift=10), result("b", 120, shift=30)]
    alone, over = retention(base, tuned), retention_over_seeds(base, [tuned])
    assert over.mean == pytest.approx(alone.mean)
    assert over.interval == pytest.approx(alone.interval, abs=0.02)


def test_seeds_that_disagree_widen_the_interval() -> None:
    base = [result("a", 180)]
    alike = retention_over_seeds(base, [[result("a", 130)]] * 3).interval
    apart = retention_over_seeds(base, [[result("a", right)] for right in (80, 130, 180)]).interval
    assert apart[1] - apart[0] > 2 * (alike[1] - alike[0])


def test_gain_over_seeds() -> None:
    base, plain = losses(3.0), [losses(2.0, seed=1), losses(1.8, seed=2)]
    value, (low, high) = gain_over_seeds(base, plain, plain)
    assert (value, low, high) == (1.0, 1.0, 1.0)
    half = [losses(2.5, seed=3), losses(2.4, seed=4)]
    value, (low, high) = gain_over_seeds(base, half, plain)
    expected = (base.nll_per_token - np.mean([one.nll_per_token for one in half])) / (
        base.nll_per_token - np.mean([one.nll_per_token for one in plain])
    )
    assert value == pytest.approx(expected)
    assert low < value < high
    alone = gain_over_seeds(base, half[:1], plain[:1])[1]
    assert alone == pytest.approx(gain_interval(base, half[0], plain[0]), abs=0.02)


def test_gain_needs_plain_to_gain() -> None:
    with pytest.raises(LoopaiError, match="gain"):
        gain_over_seeds(losses(2.0), [losses(1.9)], [losses(2.1, seed=5)])


def test_other_probes_are_refused() -> None:
    with pytest.raises(InputError, match="same ones"):
        retention_over_seeds([result("a", 180)], [[result("b", 180)]])


def test_the_smallest_rate_as_good_as_the_best_is_chosen() -> None:
    def seeds(mean: float, spread: float) -> list[RowLosses]:
        return [losses(mean + shift * spread, seed=place) for place, shift in enumerate((-1, 0, 1))]

    assert smallest_within_noise({1e-4: seeds(2.5, 0), 3e-4: seeds(2.0, 0.0), 1e-3: seeds(2.0, 0.0)}) == 3e-4
    # The best by a hair, and its seeds disagree: the smaller rate is as good as it.
    assert smallest_within_noise({1e-4: seeds(2.05, 0.2), 3e-4: seeds(2.0, 0.3)}) == 1e-4
    assert smallest_within_noise({1e-4: seeds(2.5, 0), 3e-4: seeds(2.0, 0), 1e-3: [losses(np.nan)]}) == 3e-4
