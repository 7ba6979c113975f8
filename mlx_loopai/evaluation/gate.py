"""The release gate: the floors that a fine-tuned model's figures must reach."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from mlx_loopai.config import ForgettingOptions
from mlx_loopai.language import english, later

Interval = tuple[float, float]
_ASKED = ForgettingOptions()
RETENTION, RETENTION_MIN, GAIN = later("retention"), later("retention_min"), later("gain")


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The figures to judge; None where not measured. worst_task: the task of `retention_min`, with its scores."""

    retention: float | None
    retention_min: float | None
    retention_interval: Interval | None = None
    gain: float | None = None
    gain_interval: Interval | None = None
    worst_task: str = ""


@dataclass(frozen=True, kw_only=True)
class Shortfall:
    """A figure that is below its floor or was not measured (None); `str` gives the reason in English.

    lower_end: whether the value is the lower end of the figure's interval.
    """

    name: str
    value: float | None
    floor: float
    lower_end: bool = False
    interval: Interval | None = None
    worst_task: str = ""

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
        return say("{name} {shown} is below {floor:g}", name=name, shown=self.shown, floor=self.floor) + note


@dataclass(frozen=True)
class Gate:
    """The floors, inclusive: of mean retention, of the worst task's retention, and of gain.

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
            self._shortfall(RETENTION, figures.retention, figures.retention_interval, self.floor),
            _below(
                Shortfall(
                    name=RETENTION_MIN,
                    value=figures.retention_min,
                    floor=self.minimum_floor,
                    worst_task=figures.worst_task,
                )
            ),
        ]
        if self.gain_floor > 0 or figures.gain is not None:
            found.append(self._shortfall(GAIN, figures.gain, figures.gain_interval, self.gain_floor))
        return [one for one in found if one is not None]

    def _shortfall(self, name: str, value: float | None, interval: Interval | None, floor: float) -> Shortfall | None:
        if self.certain:
            lower = interval[0] if interval else None
            return _below(Shortfall(name=name, value=lower, floor=floor, lower_end=True))
        return _below(Shortfall(name=name, value=value, floor=floor, interval=interval))


def _below(found: Shortfall) -> Shortfall | None:
    return None if found.value is not None and found.value >= found.floor else found
