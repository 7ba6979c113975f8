"""Retention and gain over several training seeds: the same base and items, one tuned model a seed.

Intervals resample seeds and, within them, items or rows; the items of a resample are the same for every seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mlx_loopai.errors import LoopaiError
from mlx_loopai.evaluation.forgetting import (
    MAX_UNDEFINED_SHARE,
    RESAMPLES,
    ProbeRetention,
    Retention,
    gain,
    interval_of,
    retention,
)

if TYPE_CHECKING:
    from mlx_loopai.evaluation.perplexity import RowLosses
    from mlx_loopai.evaluation.probes import ProbeResult

_Floats = npt.NDArray[np.float64]


def retention_over_seeds(
    base: Sequence[ProbeResult], tuned: Sequence[Sequence[ProbeResult]], seed: int = 0, resamples: int = RESAMPLES
) -> Retention:
    """The mean over seeds of `retention`; `minimum` is the worst probe's mean over seeds.

    n, right_to_wrong and wrong_to_right count the answers of all seeds.

    Raises: InputError as `retention`.
    """
    each = [retention(base, one, resamples=1) for one in tuned]
    per_probe = {name: _over_seeds([one.per_probe[name] for one in each]) for name in each[0].per_probe}
    rng = np.random.default_rng(seed)
    total = np.zeros((resamples, len(tuned)))
    for place, before in enumerate(base):
        times = rng.multinomial(before.n, np.full(before.n, 1 / before.n), size=resamples) / before.n
        # A base that a resample puts at chance counts as one item above it: rare, and no division by zero.
        above = np.maximum(times @ np.array(before.right, np.float64) - before.chance, 1 / before.n)
        right = np.array([one[place].right for one in tuned], np.float64)
        total += np.minimum(1.0, (times @ right.T - before.chance) / above[:, None])
    return Retention(
        mean=float(np.mean([one.mean for one in each])),
        minimum=min(one.capped for one in per_probe.values()),
        per_probe=per_probe,
        interval=interval_of(_seeds_mean(total / len(base), rng)),
        right_to_wrong=sum(one.right_to_wrong for one in each),
        wrong_to_right=sum(one.wrong_to_right for one in each),
    )


def gain_over_seeds(
    base: RowLosses,
    tuned: Sequence[RowLosses],
    plain: Sequence[RowLosses],
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> tuple[float, tuple[float, float]]:
    """`gain` of the mean domain scores over seeds, and its 95 % interval. One arm's n-th seed is the other's n-th.

    Raises: LoopaiError when plain LoRA is not clearly above the base.
    """
    scores = (-float(np.mean([one.nll_per_token for one in losses])) for losses in ([base], tuned, plain))
    value = gain(*scores)
    rng = np.random.default_rng(seed)
    times = _row_times(base, rng, resamples)
    drawn = rng.integers(len(tuned), size=(resamples, len(tuned)))
    d0 = _scores(times, [base])[:, 0]
    d, d_plain = (np.take_along_axis(_scores(times, losses), drawn, axis=1).mean(axis=1) for losses in (tuned, plain))
    defined = d_plain > d0
    if 1 - defined.mean() > MAX_UNDEFINED_SHARE:
        raise LoopaiError(
            f"gain: plain LoRA is not clearly above the base ({defined.mean():.0%} of {resamples} resamples); "
            "use more held-out rows, or a plain arm that learns the domain"
        )
    return value, interval_of((d[defined] - d0[defined]) / (d_plain[defined] - d0[defined]))


def smallest_within_noise(scored: Mapping[float, Sequence[RowLosses]], resamples: int = RESAMPLES) -> float:
    """The smallest value whose mean domain score is not clearly (95 %) below that of the best value.

    `scored`: value -> the losses of each seed on the same held-out rows. Retention takes no part in it.
    """
    means = {value: np.mean([one.nll_per_token for one in losses]) for value, losses in scored.items()}
    finite = [value for value in means if np.isfinite(means[value])] or list(means)
    best = min(finite, key=lambda value: (means[value], value))
    return next(value for value in sorted(finite) if value == best or _as_good(scored[value], scored[best], resamples))


def _as_good(other: Sequence[RowLosses], best: Sequence[RowLosses], resamples: int) -> bool:
    rng = np.random.default_rng(0)
    times = _row_times(best[0], rng, resamples)
    behind = _seeds_mean(_scores(times, best) - _scores(times, other), rng)
    return interval_of(behind)[0] <= 0


def _over_seeds(probes: Sequence[ProbeRetention]) -> ProbeRetention:
    return ProbeRetention(
        base=probes[0].base,
        score=float(np.mean([one.score for one in probes])),
        n=sum(one.n for one in probes),
        chance=probes[0].chance,
        capped=float(np.mean([one.capped for one in probes])),
        uncapped=float(np.mean([one.uncapped for one in probes])),
        right_to_wrong=sum(one.right_to_wrong for one in probes),
        wrong_to_right=sum(one.wrong_to_right for one in probes),
    )


def _row_times(losses: RowLosses, rng: np.random.Generator, resamples: int) -> npt.NDArray[np.int64]:
    """How often each row is drawn in each resample."""
    n_rows = len(losses.tokens)
    return rng.multinomial(n_rows, np.full(n_rows, 1 / n_rows), size=resamples)


def _scores(times: npt.NDArray[np.int64], losses: Sequence[RowLosses]) -> _Floats:
    """[resamples, seeds]: minus the nats per token of each resample of the rows."""
    return np.stack([-(times @ one.nll) / (times @ one.tokens) for one in losses], axis=1)


def _seeds_mean(values: _Floats, rng: np.random.Generator) -> _Floats:
    """[resamples]: the mean over seeds drawn anew in each resample of `values` [resamples, seeds]."""
    drawn = rng.integers(values.shape[1], size=values.shape)
    return np.take_along_axis(values, drawn, axis=1).mean(axis=1)
