"""The release gate: the floors that a fine-tuned model's figures must reach."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from mlx_loopai.config import ForgettingOptions
from mlx_loopai.language import english, later

Interval = tuple[float, float]
_ASKED = ForgettingOptions()
RETENTION, RETENTION_MIN, GAIN = later("retention"), later("retention_min"), later("gain")


def least(floor: float, noise_floor: float | None) -> float:
    """The least retention that passes: `floor` of what the base keeps after a harmless change, or of 1 if unknown."""
    return floor if noise_floor is None else floor * noise_floor


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The figures to judge; None where not measured. worst_task: the task of `retention_min`, with its scores.

    noise_floor, noise_floor_min: `retention` and `retention_min` of the base itself after a harmless change.
    """

    retention: float | None
    retention_min: float | None
    retention_interval: Interval | None = None
    gain: float | None = None
    gain_interval: Interval | None = None
    noise_floor: float | None = None
    noise_floor_min: float | None = None
    worst_task: str = ""


@dataclass(frozen=True, kw_only=True)
class Shortfall:
    """A figure that is below its floor or was not measured (None); `str` gives the reason in English.

    lower_end: whether the value is the lower end of the figure's interval. noise_floor: of which `floor` is a share;
    None where it is a share of 1.
    """

    name: str
    value: float | None
    floor: float
    lower_end: bool = False
    interval: Interval | None = None
    noise_floor: float | None = None
    worst_task: str = ""

    @property
    def is_below(self) -> bool:
        return self.value is None or self.value < least(self.floor, self.noise_floor)

    @property
    def shown(self) -> str:
        """The value, rounded down, so that 0.9499 is not shown as 0.950 below 0.95."""
        return "" if self.value is None else f"{math.floor(self.value * 1e4) / 1e4:.4f}"

    def __str__(self) -> str:
        return self.said(english)

    def said(self, say: Callable[..., str]) -> str:
        """The reason as `say` words it: `language.tr` in the language in use."""
        name = say(self.name)
        if self.value is None:
            return (
                say("{name}_interval is missing", name=name) if self.lower_end else say("{name} is missing", name=name)
            )
        if self.lower_end:
            name = say("{name} (lower end)", name=name)
        note = ""
        if self.worst_task:
            note = say(" (worst: {task})", task=self.worst_task)
        elif self.interval:
            note = say(" (95 % interval {low:.3f} to {high:.3f})", low=self.interval[0], high=self.interval[1])
        if self.noise_floor is None:
            return say("{name} {shown} is below {floor:g}", name=name, shown=self.shown, floor=self.floor) + note
        said = say(
            "{name} {shown} is below {floor:g} of {noise_floor:.3f}, which rounding the base leaves",
            name=name,
            shown=self.shown,
            floor=self.floor,
            noise_floor=self.noise_floor,
        )
        return said + note


@dataclass(frozen=True)
class Gate:
    """The floors, inclusive: of mean retention, of the worst task's retention, and of gain.

    Where the noise floor was measured, both retentions are judged against it, as the verdict of a run judges them.
    gain_floor: with 0, a gain that was not measured is accepted. certain: retention and gain are judged by the lower
    ends of their 95 % intervals.
    """

    floor: float = _ASKED.floor
    minimum_floor: float = 0.9
    gain_floor: float = _ASKED.gain_floor
    certain: bool = False

    @classmethod
    def of(cls, options: ForgettingOptions) -> Gate:
        """The floors that a run's configuration asks for."""
        return cls(floor=options.floor, gain_floor=options.gain_floor)

    def check(self, figures: Figures) -> list[Shortfall]:
        """Why a model with these figures does not pass; empty when it does."""
        found = [
            self._judged(
                Shortfall(name=RETENTION, value=figures.retention, floor=self.floor, noise_floor=figures.noise_floor),
                figures.retention_interval,
            ),
            Shortfall(
                name=RETENTION_MIN,
                value=figures.retention_min,
                floor=self.minimum_floor,
                noise_floor=figures.noise_floor_min,
                worst_task=figures.worst_task,
            ),
        ]
        if self.gain_floor > 0 or figures.gain is not None:
            gain = Shortfall(name=GAIN, value=figures.gain, floor=self.gain_floor)
            found.append(self._judged(gain, figures.gain_interval))
        return [one for one in found if one.is_below]

    def _judged(self, found: Shortfall, interval: Interval | None) -> Shortfall:
        """By the lower end of its interval, where that is asked for."""
        if self.certain:
            return replace(found, value=interval[0] if interval else None, lower_end=True)
        return replace(found, interval=interval)
