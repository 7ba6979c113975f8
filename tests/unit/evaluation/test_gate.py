from __future__ import annotations

from typing import Any

import pytest

from mlx_loopai.config import ForgettingOptions
from mlx_loopai.evaluation.gate import Figures, Gate

GOOD = {"retention": 0.98, "retention_min": 0.95, "gain": 0.97}


def reasons(gate: Gate, **figures: Any) -> list[str]:
    return [str(shortfall) for shortfall in gate.check(Figures(**figures))]


@pytest.mark.parametrize(
    ("change", "gate"),
    [
        ({}, Gate()),
        ({"retention": 0.95, "retention_min": 0.9}, Gate()),  # floors are inclusive
        ({"gain": None}, Gate()),
        ({"gain": 0}, Gate()),
        ({"retention": 1}, Gate(floor=1.0)),
        ({"gain": 0.97}, Gate(gain_floor=0.95)),
    ],
)
def test_passes(change: dict[str, Any], gate: Gate) -> None:
    assert reasons(gate, **GOOD | change) == []


@pytest.mark.parametrize(
    ("change", "gate", "said"),
    [
        ({"retention": 0.94999}, Gate(), ["retention 0.9499 is below 0.95"]),
        ({"retention": 0.5, "retention_min": 0.1}, Gate(), ["retention 0.5000", "retention_min 0.1000"]),
        ({"gain": -0.1}, Gate(), ["gain -0.1000 is below 0"]),
        ({"gain": None}, Gate(gain_floor=0.5), ["gain is missing"]),
        ({"retention": None}, Gate(), ["retention is missing"]),
        ({"retention_min": None}, Gate(), ["retention_min is missing"]),
        ({}, Gate(certain=True), ["retention_interval is missing", "gain_interval is missing"]),
    ],
)
def test_says_no_with_every_reason(change: dict[str, Any], gate: Gate, said: list[str]) -> None:
    found = reasons(gate, **GOOD | change)
    assert len(found) == len(said)
    assert all(part in reason for part, reason in zip(said, found, strict=True))


def test_certain_judges_by_the_lower_end() -> None:
    intervals = {"retention_interval": (0.94, 1.0), "gain_interval": (0.9, 1.0)}
    assert reasons(Gate(), **GOOD, **intervals) == []
    assert reasons(Gate(certain=True), **GOOD, **intervals) == ["retention (lower end) 0.9400 is below 0.95"]


NOISE = {"noise_floor": 0.92, "noise_floor_min": 0.8}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"retention": 0.875, "retention_min": 0.73}, []),
        ({"retention": 0.873}, ["retention 0.8730 is below 0.95 of 0.920, which rounding the base leaves"]),
        ({"retention_min": 0.71}, ["retention_min 0.7100 is below 0.9 of 0.800, which rounding the base leaves"]),
    ],
)
def test_retention_is_judged_against_the_noise_floor(change: dict[str, Any], said: list[str]) -> None:
    """A run with the verdict `pass` failed at the gate, which asked more of it than rounding leaves of its base."""
    assert reasons(Gate(), **GOOD | NOISE | change) == said


def test_the_lower_end_is_judged_against_the_noise_floor() -> None:
    figures = GOOD | NOISE | {"gain_interval": (0.9, 1.0)}
    assert reasons(Gate(certain=True), **figures, retention_interval=(0.88, 0.95)) == []
    assert len(reasons(Gate(certain=True), **figures, retention_interval=(0.87, 0.95))) == 1


def test_names_the_worst_task_and_the_interval() -> None:
    figures = {"retention": 0.5, "retention_min": 0.1, "retention_interval": (0.4, 0.6)}
    mean, worst = reasons(Gate(), **figures, worst_task="chat, 1.000 -> 0.200")
    assert "interval 0.400 to 0.600" in mean
    assert "worst: chat, 1.000 -> 0.200" in worst


def test_the_floors_are_those_of_the_configuration() -> None:
    assert Gate.of(ForgettingOptions()) == Gate()
    assert Gate.of(ForgettingOptions(floor=0.5, gain_floor=0.8)) == Gate(floor=0.5, gain_floor=0.8)
