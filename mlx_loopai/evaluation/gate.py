"""The release gate: what a report has to show before a fine-tuned model may go out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Gate:
    """Floors, all inclusive: mean retention, the worst probe's retention, and gain (0: not asked for when absent).

    certain: retention and gain are judged by the lower end of their 95 % intervals.
    """

    floor: float = 0.95
    minimum_floor: float = 0.9
    gain_floor: float = 0.0
    certain: bool = False

    def check(self, report: Mapping[str, Any]) -> list[str]:
        """Why `report` (keys `retention`, `retention_min`, `gain`) does not pass; empty when it does.

        A figure that is missing or no number does not pass: no evidence is no pass.
        """
        reasons = [
            *self._below(report, "retention", self.floor),
            *_below(report, "retention_min", self.minimum_floor, _worst_probe(report)),
        ]
        if self.gain_floor > 0 or report.get("gain") is not None:
            reasons += self._below(report, "gain", self.gain_floor)
        return reasons

    def _below(self, report: Mapping[str, Any], name: str, floor: float) -> list[str]:
        bounds = _interval(report.get(f"{name}_interval"))
        if self.certain:
            if bounds is None:
                return [f"{name}_interval is missing"]
            return _below({f"{name} (lower end)": bounds[0]}, f"{name} (lower end)", floor)
        text = f" (95 % interval {bounds[0]:.3f} to {bounds[1]:.3f})" if bounds else ""
        return _below(report, name, floor, text)


def _below(report: Mapping[str, Any], name: str, floor: float, note: str = "") -> list[str]:
    value = number(report.get(name))
    if value is None:
        return [f"{name} is missing"]
    # Rounded down, so that 0.9499 is not shown as 0.950 below 0.95.
    return [] if value >= floor else [f"{name} {math.floor(value * 1e4) / 1e4:.4f} is below {floor:g}{note}"]


def number(value: Any) -> float | None:
    """`value` when it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _interval(value: Any) -> tuple[float, float] | None:
    if not isinstance(value, list | tuple) or len(value) != 2:
        return None
    low, high = map(number, value)
    return None if low is None or high is None else (low, high)


def _worst_probe(report: Mapping[str, Any]) -> str:
    """The probe that `retention_min` speaks of, from the probes' scores over their base's."""
    probes = report.get("probes")
    if not isinstance(probes, Mapping):
        return ""
    kept: dict[str, float] = {}
    for name, probe in probes.items():
        if not isinstance(probe, Mapping) or probe.get("counted") is False:
            continue
        base, score, chance = (number(probe.get(key)) for key in ("base", "score", "chance"))
        if base is not None and score is not None and base > (chance or 0.0):
            kept[name] = (score - (chance or 0.0)) / (base - (chance or 0.0))
    if not kept:
        return ""
    worst = min(kept, key=lambda name: kept[name])
    return f" (worst: {worst}, {probes[worst]['base']:.3f} -> {probes[worst]['score']:.3f})"
