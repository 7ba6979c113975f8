"""The release gate: the floors that a fine-tuned model's figures must reach."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mlx_loopai.config import ForgettingOptions

Interval = tuple[float, float]
_ASKED = ForgettingOptions()


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What is judged; None where it was not measured. `worst_task`: the task of `retention_min`, with its scores."""

    retention: float | None
    retention_min: float | None
    retention_interval: Interval | None = None
    gain: float | None = None
    gain_interval: Interval | None = None
    worst_task: str = ""


@dataclass(frozen=True)
class Shortfall:
    """A figure that is below its floor or was not measured (None). As text it is one reason."""

    name: str
    value: float | None
    floor: float
    note: str = ""

    @property
    def shown(self) -> str:
        """The value, rounded down, so that 0.9499 is not shown as 0.950 below 0.95."""
        return "" if self.value is None else f"{math.floor(self.value * 1e4) / 1e4:.4f}"

    def __str__(self) -> str:
        return (
            f"{self.name} is missing"
            if self.value is None
            else f"{self.name} {self.shown} is below {self.floor:g}{self.note}"
        )


@dataclass(frozen=True)
class Gate:
    """Floors, all inclusive: mean retention, the worst task's retention, and gain (0: not asked for when absent).

    certain: retention and gain are judged by the lower end of their 95 % intervals.
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
        worst = f" (worst: {figures.worst_task})" if figures.worst_task else ""
        found = [
            self._shortfall("retention", figures.retention, figures.retention_interval, self.floor),
            _below("retention_min", figures.retention_min, self.minimum_floor, worst),
        ]
        if self.gain_floor > 0 or figures.gain is not None:
            found.append(self._shortfall("gain", figures.gain, figures.gain_interval, self.gain_floor))
        return [one for one in found if one is not None]

    def _shortfall(self, name: str, value: float | None, interval: Interval | None, floor: float) -> Shortfall | None:
        if self.certain:
            return (
                _below(f"{name} (lower end)", interval[0], floor)
                if interval
                else Shortfall(f"{name}_interval", None, floor)
            )
        return _below(
            name, value, floor, f" (95 % interval {interval[0]:.3f} to {interval[1]:.3f})" if interval else ""
        )


def _below(name: str, value: float | None, floor: float, note: str = "") -> Shortfall | None:
    return None if value is not None and value >= floor else Shortfall(name, value, floor, note)
