"""Gain: how much of the domain a fine-tuned model learnt. The formula is in docs/measuring.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mlx_loopai.errors import InputError, LoopaiError
from mlx_loopai.evaluation.bootstrap import RESAMPLES, Floats, interval_of, item_times, seeds_mean
from mlx_loopai.language import tr

if TYPE_CHECKING:
    from mlx_loopai.evaluation.perplexity import RowLosses

# A few undefined resamples are noise; more mean that plain tuning did not clearly gain.
MAX_UNDEFINED_SHARE = 0.025


def gain(d0: float, d: float, d_plain: float) -> float:
    """DG = (d - d0) / (d_plain - d0): the share of plain LoRA's domain gain that was reached.

    d0, d, d_plain: domain scores of the base, the tuned model and plain LoRA: minus the negative log-likelihood per
    token on held-out domain rows.

    Raises: LoopaiError when plain LoRA is not above the base, so that the share is undefined.
    """
    if not d_plain > d0:
        raise LoopaiError(
            tr(
                "gain is undefined: plain LoRA scores {d_plain:.4f} nats per token on the domain, the base "
                "{d0:.4f}; train plain longer or at a higher learning rate, or check that the held-out rows are "
                "of the domain",
                d_plain=d_plain,
                d0=d0,
            )
        )
    return (d - d0) / (d_plain - d0)


def gain_over_seeds(
    base: RowLosses,
    tuned: Sequence[RowLosses],
    plain: Sequence[RowLosses],
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> tuple[float, tuple[float, float]]:
    """`gain` of the mean domain scores over seeds, and its 95 % interval. The n-th entries of both arms share a seed.

    Raises: InputError when they are not of the same rows; LoopaiError when plain LoRA is not clearly above the base.
    """
    if not all(np.array_equal(base.tokens, one.tokens) for one in (*tuned, *plain)):
        raise InputError(tr("gain: the arms were scored on different rows; score them on the same ones, in one order"))
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
            tr(
                "gain: plain LoRA is not clearly above the base ({mean:.0%} of {resamples} resamples); use more "
                "held-out rows, or a plain arm that learns the domain",
                mean=defined.mean(),
                resamples=resamples,
            )
        )
    return value, interval_of((d[defined] - d0[defined]) / (d_plain[defined] - d0[defined]))


def smallest_within_noise(scored: Mapping[float, Sequence[RowLosses]], resamples: int = RESAMPLES) -> float:
    """The smallest value whose mean domain score is not clearly (95 %) below that of the best value.

    scored: value -> the losses of each seed on the same held-out rows. Retention plays no part in the choice.
    """
    means = {value: np.mean([one.nll_per_token for one in losses]) for value, losses in scored.items()}
    finite = [value for value in means if np.isfinite(means[value])] or list(means)
    best = min(finite, key=lambda value: (means[value], value))
    return next(value for value in sorted(finite) if value == best or _as_good(scored[value], scored[best], resamples))


def _as_good(other: Sequence[RowLosses], best: Sequence[RowLosses], resamples: int) -> bool:
    rng = np.random.default_rng(0)
    times = _row_times(best[0], rng, resamples)
    behind = seeds_mean(_scores(times, best) - _scores(times, other), rng)
    return interval_of(behind)[0] <= 0


def _row_times(losses: RowLosses, rng: np.random.Generator, resamples: int) -> npt.NDArray[np.int64]:
    """How often each row is drawn in each resample."""
    return item_times(len(losses.tokens), rng, resamples)


def _scores(times: npt.NDArray[np.int64], losses: Sequence[RowLosses]) -> Floats:
    """[resamples, seeds]: minus the nats per token of each resample of the rows."""
    return np.stack([-(times @ one.nll) / (times @ one.tokens) for one in losses], axis=1)
