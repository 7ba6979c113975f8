"""The figures that all documents on a fine-tuned model share: retention of the base's abilities, task by task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mlx_loopai.evaluation.gate import Figures
from mlx_loopai.runs.documents.document import Count, Figure, Interval, Part


@dataclass(frozen=True, kw_only=True)
class TaskScore(Part):
    """One task: accuracies in [0, 1] of the base (`base`) and of the model (`score`), over n questions.

    uncapped = (score - chance) / (base - chance); capped: at most 1. counted: False where the base is too near chance
    for retention to mean anything.
    """

    base: Figure
    score: Figure
    n: Count = None
    chance: Figure = None
    capped: Figure = None
    uncapped: Figure = None
    right_to_wrong: Count = None
    wrong_to_right: Count = None
    counted: bool = True

    @property
    def kept(self) -> float | None:
        """`uncapped`, computed from the scores; None where the base is not above chance or a score is missing."""
        chance = self.chance or 0.0
        if self.base is None or self.score is None or self.base <= chance:
            return None
        return (self.score - chance) / (self.base - chance)


@dataclass(frozen=True, kw_only=True)
class Kept(Part):
    """Retention over the tasks (`probes`, by name), 1 for the base; gain on the domain, 1 for plain LoRA.

    `retention_min`: of the task that kept least. Intervals hold 95 %. `right_to_wrong` and `wrong_to_right` count
    answers of all tasks that count. `purity`: Hangul letters / letters of the answers to Korean prompts. `noise_floor`,
    `noise_floor_min`: `retention` and `retention_min` of the base rounded to 8 bits (docs/measuring.md).
    """

    retention: Figure
    retention_min: Figure
    retention_interval: Interval = None
    gain: Figure = None
    gain_interval: Interval = None
    right_to_wrong: Count = None
    wrong_to_right: Count = None
    probes: Mapping[str, TaskScore] = field(default_factory=dict)
    purity: Figure = None
    noise_floor: Figure = None
    noise_floor_min: Figure = None

    @property
    def worst_task(self) -> tuple[str, TaskScore] | None:
        """The task with the lowest retention, with its name."""
        kept = [(share, name) for name, one in self.probes.items() if one.counted and (share := one.kept) is not None]
        if not kept:
            return None
        _, name = min(kept, key=lambda found: found[0])
        return name, self.probes[name]

    @property
    def gate_figures(self) -> Figures:
        """The figures that the release gate judges."""
        worst = self.worst_task
        return Figures(
            retention=self.retention,
            retention_min=self.retention_min,
            retention_interval=self.retention_interval,
            gain=self.gain,
            gain_interval=self.gain_interval,
            noise_floor=self.noise_floor,
            noise_floor_min=self.noise_floor_min,
            worst_task=f"{worst[0]}, {worst[1].base:.3f} -> {worst[1].score:.3f}" if worst else "",
        )
