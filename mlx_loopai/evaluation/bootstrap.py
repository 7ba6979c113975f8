"""Bootstrap resampling over items and seeds: every confidence interval is computed here."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

RESAMPLES = 2000
CONFIDENCE = 0.95
Floats = npt.NDArray[np.float64]


def interval_of(values: Floats) -> tuple[float, float]:
    """The percentile interval: (2.5th, 97.5th percentile) of resampled values."""
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


def item_times(n: int, rng: np.random.Generator, resamples: int) -> npt.NDArray[np.int64]:
    """[resamples, n]: how often each of n items is drawn, with replacement."""
    return rng.multinomial(n, np.full(n, 1 / n), size=resamples)


def seeds_mean(values: Floats, rng: np.random.Generator) -> Floats:
    """[resamples]: the mean over seeds drawn anew in each resample of `values` [resamples, seeds]."""
    drawn = rng.integers(values.shape[1], size=values.shape)
    return np.take_along_axis(values, drawn, axis=1).mean(axis=1)
