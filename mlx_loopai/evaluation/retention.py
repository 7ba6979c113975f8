"""Retention: how much of its general ability a fine-tuned model kept. The formula is in docs/measuring.md.

Plain numbers in, plain numbers out: no model is needed here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlx_loopai.errors import InputError, all_problems
from mlx_loopai.evaluation.bootstrap import RESAMPLES, Floats, interval_of, item_times, seeds_mean
from mlx_loopai.language import tr

if TYPE_CHECKING:
    from mlx_loopai.evaluation.tasks import TaskResult

WELL_ABOVE_CHANCE = 0.2
# The four outcomes of an item: whether the base is right, and whether the tuned model is.
_BASE_RIGHT = np.array([1, 1, 0, 0])
_TUNED_RIGHT = np.array([1, 0, 1, 0])


@dataclass(frozen=True, kw_only=True)
class TaskRetention:
    """Retention on one task. Scores in [0, 1]; uncapped = (score - chance) / (base - chance); capped: at most 1."""

    base: float
    score: float
    n: int
    chance: float
    capped: float
    uncapped: float
    right_to_wrong: int
    wrong_to_right: int


@dataclass(frozen=True, kw_only=True)
class Retention:
    """Retention over all tasks: `mean` (GR) and `minimum` of the capped values; interval: 95 % for the mean.

    right_to_wrong, wrong_to_right: how many questions changed, over all tasks, since equal scores can hide changes.
    """

    mean: float
    minimum: float
    per_task: dict[str, TaskRetention]
    interval: tuple[float, float]
    right_to_wrong: int
    wrong_to_right: int

    @property
    def worst(self) -> str:
        """The name of the task that kept least."""
        return min(self.per_task, key=lambda name: self.per_task[name].capped)


def well_above_chance(base: Sequence[TaskResult]) -> list[str]:
    """Names of the tasks on which the base has something to lose."""
    return [result.name for result in base if result.score - result.chance >= WELL_ABOVE_CHANCE]


def counted(base: Sequence[TaskResult]) -> list[str]:
    """Names of the tasks that retention counts, where the base is well above chance. Raises: InputError for none."""
    names = well_above_chance(base)
    if not names:
        scores = ", ".join(
            tr("{name} {score:.2f} (chance {chance:.2f})", name=result.name, score=result.score, chance=result.chance)
            for result in base
        )
        raise InputError(
            tr(
                "retention: this base is well above chance on no task ({scores}): there is nothing that it could "
                "lose; the suite nano is made for the embedded model: give another `suite`, such as general, or "
                "easier questions",
                scores=scores,
            )
        )
    return names


def retention(
    base: Sequence[TaskResult], tuned: Sequence[TaskResult], seed: int = 0, resamples: int = RESAMPLES
) -> Retention:
    """Chance-adjusted retention over the tasks that count, with a paired bootstrap over the questions of each.

    GR = mean_k min(1, (s_k - c_k) / (s0_k - c_k)).

    Raises: InputError when the two do not hold the same tasks and questions, or when no task counts (`counted`).
    """
    names = counted(base)
    pairs = [(before, after) for before, after in _paired(base, tuned) if before.name in names]
    per_task = {before.name: _task_retention(before, after) for before, after in pairs}
    capped = [one.capped for one in per_task.values()]
    return Retention(
        mean=float(np.mean(capped)),
        minimum=float(np.min(capped)),
        per_task=per_task,
        interval=interval_of(_resampled_means(list(per_task.values()), seed, resamples)),
        right_to_wrong=sum(one.right_to_wrong for one in per_task.values()),
        wrong_to_right=sum(one.wrong_to_right for one in per_task.values()),
    )


def retention_over_seeds(
    base: Sequence[TaskResult], tuned: Sequence[Sequence[TaskResult]], seed: int = 0, resamples: int = RESAMPLES
) -> Retention:
    """The mean over seeds of `retention`; `minimum` is the worst task's mean over seeds.

    n, right_to_wrong and wrong_to_right count the answers of all seeds.

    Raises: InputError as `retention`.
    """
    each = [retention(base, one, resamples=1) for one in tuned]
    names = list(each[0].per_task)
    base, tuned = _only(base, names), [_only(one, names) for one in tuned]
    per_task = {name: _over_seeds([one.per_task[name] for one in each]) for name in names}
    rng = np.random.default_rng(seed)
    total = np.zeros((resamples, len(tuned)))
    for place, before in enumerate(base):
        times = item_times(before.n, rng, resamples) / before.n
        # A base that a resample puts at chance counts as one item above it, which avoids a division by zero.
        above = np.maximum(times @ np.array(before.right, np.float64) - before.chance, 1 / before.n)
        right = np.array([one[place].right for one in tuned], np.float64)
        total += np.minimum(1.0, (times @ right.T - before.chance) / above[:, None])
    return Retention(
        mean=float(np.mean([one.mean for one in each])),
        minimum=min(one.capped for one in per_task.values()),
        per_task=per_task,
        interval=interval_of(seeds_mean(total / len(base), rng)),
        right_to_wrong=sum(one.right_to_wrong for one in each),
        wrong_to_right=sum(one.wrong_to_right for one in each),
    )


def chance_of_losing(lost: int, won: int) -> float:
    """The probability that a harmless change turns at least `lost` of `lost + won` changed answers to the worse.

    Source: McNemar's test in its exact, one-sided form (Psychometrika 12, 1947): both directions are equally likely.
    """
    changed = lost + won
    return sum(math.comb(changed, count) for count in range(lost, changed + 1)) / 2**changed


def _paired(base: Sequence[TaskResult], tuned: Sequence[TaskResult]) -> list[tuple[TaskResult, TaskResult]]:
    if not base or [result.name for result in base] != [result.name for result in tuned]:
        names = [", ".join(result.name for result in results) or "none" for results in (base, tuned)]
        raise InputError(
            tr(
                "retention: the base has the tasks {of_base}, the tuned model {of_tuned}; run the same ones",
                of_base=names[0],
                of_tuned=names[1],
            )
        )
    pairs = list(zip(base, tuned, strict=True))
    problems = [
        tr(
            "{name}: {of_base} items for the base, {of_tuned} for the tuned model; run the same ones",
            name=before.name,
            of_base=before.n,
            of_tuned=after.n,
        )
        for before, after in pairs
        if before.n != after.n
    ]
    if problems:
        raise InputError(tr("retention: {problems}", problems=all_problems(problems)))
    return pairs


def _task_retention(before: TaskResult, after: TaskResult) -> TaskRetention:
    was, now = np.array(before.right, np.bool_), np.array(after.right, np.bool_)
    uncapped = (after.score - before.chance) / (before.score - before.chance)
    return TaskRetention(
        base=before.score,
        score=after.score,
        n=before.n,
        chance=before.chance,
        capped=min(1.0, uncapped),
        uncapped=uncapped,
        right_to_wrong=int((was & ~now).sum()),
        wrong_to_right=int((~was & now).sum()),
    )


def _only(results: Sequence[TaskResult], names: Sequence[str]) -> list[TaskResult]:
    return [result for result in results if result.name in names]


def _over_seeds(tasks: Sequence[TaskRetention]) -> TaskRetention:
    return TaskRetention(
        base=tasks[0].base,
        score=float(np.mean([one.score for one in tasks])),
        n=sum(one.n for one in tasks),
        chance=tasks[0].chance,
        capped=float(np.mean([one.capped for one in tasks])),
        uncapped=float(np.mean([one.uncapped for one in tasks])),
        right_to_wrong=sum(one.right_to_wrong for one in tasks),
        wrong_to_right=sum(one.wrong_to_right for one in tasks),
    )


def _resampled_means(tasks: Sequence[TaskRetention], seed: int, resamples: int) -> Floats:
    """GR of each resample. Drawing n items with replacement is a multinomial draw of the four paired outcomes."""
    rng = np.random.default_rng(seed)
    total = np.zeros(resamples)
    for task in tasks:
        lost, won = task.right_to_wrong, task.wrong_to_right
        kept = round(task.base * task.n) - lost
        counts = rng.multinomial(task.n, np.array([kept, lost, won, task.n - kept - lost - won]) / task.n, resamples)
        base, score = counts @ _BASE_RIGHT / task.n, counts @ _TUNED_RIGHT / task.n
        # A base that a resample puts at chance counts as one item above it, which avoids a division by zero.
        above = np.maximum(base - task.chance, 1 / task.n)
        total += np.minimum(1.0, (score - task.chance) / above)
    return total / len(tasks)
