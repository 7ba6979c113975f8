"""Gain against its definition, over seeds, and with intervals that know of the seeds."""

from __future__ import annotations

import numpy as np
import pytest

from mlx_loopai.errors import InputError, LoopaiError
from mlx_loopai.evaluation.gain import gain, gain_over_seeds, smallest_within_noise
from mlx_loopai.evaluation.perplexity import RowLosses
from tests.unit.evaluation.results import losses


def test_gain() -> None:
    assert gain(-4.0, -3.0, -3.0) == 1.0
    assert gain(-4.0, -3.5, -3.0) == 0.5
    assert gain(-4.0, -4.5, -3.0) == -0.5
    assert gain(-4.0, -2.5, -3.0) == 1.5


@pytest.mark.parametrize("plain", [-4.0, -4.1, float("nan")])
def test_gain_needs_a_plain_arm_that_gains(plain: float) -> None:
    with pytest.raises(LoopaiError, match="gain is undefined"):
        gain(-4.0, -3.0, plain)


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


def test_the_interval_of_one_seed_holds_the_gain_and_repeats() -> None:
    base, tuned, plain = losses(4.0), [losses(3.2, 1)], [losses(3.0, 2)]
    value, (low, high) = gain_over_seeds(base, tuned, plain)
    assert value == gain(*(-one.nll_per_token for one in (base, tuned[0], plain[0])))
    assert low < value < high
    assert high - low < 0.2
    assert gain_over_seeds(base, tuned, plain) == (value, (low, high))
    assert gain_over_seeds(base, plain, plain) == (1.0, (1.0, 1.0))


def test_other_rows_and_no_gain_are_refused() -> None:
    with pytest.raises(InputError, match="different rows"):
        gain_over_seeds(losses(4.0), [losses(3.0, rows=79)], [losses(3.0)])
    with pytest.raises(LoopaiError, match="not clearly above"):
        gain_over_seeds(losses(4.0), [losses(4.0, 1)], [losses(3.999, 2)])


def test_the_smallest_rate_as_good_as_the_best_is_chosen() -> None:
    def seeds(mean: float, spread: float) -> list[RowLosses]:
        return [losses(mean + shift * spread, seed=place) for place, shift in enumerate((-1, 0, 1))]

    assert smallest_within_noise({1e-4: seeds(2.5, 0), 3e-4: seeds(2.0, 0.0), 1e-3: seeds(2.0, 0.0)}) == 3e-4
    # The best by a hair, and its seeds disagree: the smaller rate is as good as it.
    assert smallest_within_noise({1e-4: seeds(2.05, 0.2), 3e-4: seeds(2.0, 0.3)}) == 1e-4
    assert smallest_within_noise({1e-4: seeds(2.5, 0), 3e-4: seeds(2.0, 0), 1e-3: [losses(np.nan)]}) == 3e-4
