"""Retention and gain: how much of its general ability a fine-tuned model kept, and how much of the domain it learnt.

Plain numbers in, plain numbers out: no model is needed here. The formulas are in docs/measuring.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mlx_loopai.errors import InputError, LoopaiError, all_problems

if TYPE_CHECKING:
    from mlx_loopai.evaluation.perplexity import RowLosses
    from mlx_loopai.evaluation.probes import ProbeResult

RESAMPLES = 2000
CONFIDENCE = 0.95
WELL_ABOVE_CHANCE = 0.2
# Among the outcomes of an item: base right or wrong times tuned right or wrong.
_BASE_RIGHT = np.array([1, 1, 0, 0])
_TUNED_RIGHT = np.array([1, 0, 1, 0])
# A few undefined resamples are noise; more say that plain tuning did not clearly gain.
MAX_UNDEFINED_SHARE = 0.025


@dataclass(frozen=True)
class ProbeRetention:
    """One probe: scores in [0, 1], `uncapped` = (score - chance) / (base - chance), `capped` = that, at most 1."""

    base: float
    score: float
    n: int
    chance: float
    capped: float
    uncapped: float
    right_to_wrong: int
    wrong_to_right: int


@dataclass(frozen=True)
class Retention:
    """`mean` is GR and `minimum` the worst probe, both of capped values; `interval`: 95 % for the mean.

    `right_to_wrong`, `wrong_to_right`: items over all probes, since equal scores can hide churn.
    """

    mean: float
    minimum: float
    per_probe: dict[str, ProbeRetention]
    interval: tuple[float, float]
    right_to_wrong: int
    wrong_to_right: int


def retention(
    base: Sequence[ProbeResult], tuned: Sequence[ProbeResult], seed: int = 0, resamples: int = RESAMPLES
) -> Retention:
    """Chance-adjusted retention with a paired bootstrap over the items of each probe.

    GR = mean_k min(1, (s_k - c_k) / (s0_k - c_k)).

    Raises: InputError when the two do not hold the same probes and items, or when the base is not above chance on one.
    """
    pairs = _paired(base, tuned)
    per_probe = {before.name: _probe_retention(before, after) for before, after in pairs}
    capped = [one.capped for one in per_probe.values()]
    return Retention(
        mean=float(np.mean(capped)),
        minimum=float(np.min(capped)),
        per_probe=per_probe,
        interval=interval_of(_resampled_means(list(per_probe.values()), seed, resamples)),
        right_to_wrong=sum(one.right_to_wrong for one in per_probe.values()),
        wrong_to_right=sum(one.wrong_to_right for one in per_probe.values()),
    )


def usable(base: Sequence[ProbeResult], margin: float = WELL_ABOVE_CHANCE) -> list[str]:
    """Names of the probes on which the base scores at least `margin` above chance; on others retention is noise."""
    return [result.name for result in base if result.score - result.chance >= margin]


def gain(d0: float, d: float, d_plain: float) -> float:
    """DG = (d - d0) / (d_plain - d0): the share of plain LoRA's domain gain that was reached.

    Each is minus the negative log-likelihood per token on held-out domain rows: of the base, the tuned, the plain arm.

    Raises: LoopaiError when plain LoRA is not above the base, so that there is no gain to have a share of.
    """
    if not d_plain > d0:
        raise LoopaiError(
            f"gain is undefined: plain LoRA scores {d_plain:.4f} nats per token on the domain, the base {d0:.4f}; "
            "train plain longer or at a higher learning rate, or check that the held-out rows are of the domain"
        )
    return (d - d0) / (d_plain - d0)


def gain_interval(
    base: RowLosses, tuned: RowLosses, plain: RowLosses, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """95 % interval of `gain` by a paired bootstrap over the held-out rows.

    Raises: InputError when the three are not of the same rows; LoopaiError when plain LoRA is not clearly above it.
    """
    if not (np.array_equal(base.tokens, tuned.tokens) and np.array_equal(base.tokens, plain.tokens)):
        raise InputError(
            "gain: the three arms were scored on different rows; score them on the same ones, in one order"
        )
    n_rows = len(base.tokens)
    times = np.random.default_rng(seed).multinomial(n_rows, np.full(n_rows, 1 / n_rows), size=resamples)
    d0, d, d_plain = (-(times @ arm.nll) / (times @ base.tokens) for arm in (base, tuned, plain))
    defined = d_plain > d0
    if 1 - defined.mean() > MAX_UNDEFINED_SHARE:
        raise LoopaiError(
            f"gain: plain LoRA is not clearly above the base ({defined.mean():.0%} of {resamples} resamples); "
            "use more held-out rows, or a plain arm that learns the domain"
        )
    return interval_of((d[defined] - d0[defined]) / (d_plain[defined] - d0[defined]))


def _paired(base: Sequence[ProbeResult], tuned: Sequence[ProbeResult]) -> list[tuple[ProbeResult, ProbeResult]]:
    if not base or [result.name for result in base] != [result.name for result in tuned]:
        names = [", ".join(result.name for result in results) or "none" for results in (base, tuned)]
        raise InputError(
            f"retention: the base has the probes {names[0]}, the tuned model {names[1]}; run the same ones"
        )
    pairs = list(zip(base, tuned, strict=True))
    problems = [
        f"{before.name}: {before.n} items for the base, {after.n} for the tuned model; run the same ones"
        for before, after in pairs
        if before.n != after.n
    ]
    problems += [
        f"{before.name}: the base scores {before.score:.3f}, chance is {before.chance:.3f}; leave this probe out"
        for before, _ in pairs
        if before.score <= before.chance
    ]
    if problems:
        raise InputError(f"retention: {all_problems(problems)}")
    return pairs


def _probe_retention(before: ProbeResult, after: ProbeResult) -> ProbeRetention:
    was, now = np.array(before.right, np.bool_), np.array(after.right, np.bool_)
    uncapped = (after.score - before.chance) / (before.score - before.chance)
    return ProbeRetention(
        base=before.score,
        score=after.score,
        n=before.n,
        chance=before.chance,
        capped=min(1.0, uncapped),
        uncapped=uncapped,
        right_to_wrong=int((was & ~now).sum()),
        wrong_to_right=int((~was & now).sum()),
    )


def _resampled_means(probes: Sequence[ProbeRetention], seed: int, resamples: int) -> npt.NDArray[np.float64]:
    """GR of each resample. Drawing n items with replacement is a multinomial draw of their four paired outcomes."""
    rng = np.random.default_rng(seed)
    total = np.zeros(resamples)
    for probe in probes:
        lost, won = probe.right_to_wrong, probe.wrong_to_right
        kept = round(probe.base * probe.n) - lost
        counts = rng.multinomial(probe.n, np.array([kept, lost, won, probe.n - kept - lost - won]) / probe.n, resamples)
        base, score = counts @ _BASE_RIGHT / probe.n, counts @ _TUNED_RIGHT / probe.n
        # A base that a resample puts at chance counts as one item above it: rare, and no division by zero.
        above = np.maximum(base - probe.chance, 1 / probe.n)
        total += np.minimum(1.0, (score - probe.chance) / above)
    return total / len(probes)


def interval_of(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """The middle 95 % of resampled values."""
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)
