from __future__ import annotations

from typing import Any

import pytest

from mlx_loopai.evaluation.gate import Gate

GOOD = {"retention": 0.98, "retention_min": 0.95, "gain": 0.97}


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
    assert gate.check({**GOOD, **change}) == []


@pytest.mark.parametrize(
    ("change", "gate", "reasons"),
    [
        ({"retention": 0.94999}, Gate(), ["retention 0.9499 is below 0.95"]),
        ({"retention": 0.5, "retention_min": 0.1}, Gate(), ["retention 0.5000", "retention_min 0.1000"]),
        ({"gain": -0.1}, Gate(), ["gain -0.1000 is below 0"]),
        ({"gain": None}, Gate(gain_floor=0.5), ["gain is missing"]),
        ({"retention": None}, Gate(), ["retention is missing"]),
        ({"retention": float("nan")}, Gate(), ["retention is missing"]),
        ({"retention": "0.99"}, Gate(), ["retention is missing"]),
        ({"retention": True}, Gate(), ["retention is missing"]),
        ({"retention_min": float("inf")}, Gate(), ["retention_min is missing"]),
    ],
)
def test_says_no_with_every_reason(change: dict[str, Any], gate: Gate, reasons: list[str]) -> None:
    found = gate.check({**GOOD, **change})
    assert len(found) == len(reasons)
    assert all(said in reason for said, reason in zip(reasons, found, strict=True))


def test_names_the_worst_probe_and_the_interval() -> None:
    probes = {
        "sums": {"base": 0.9, "score": 0.8, "chance": 0.05, "counted": True},
        "chat": {"base": 1.0, "score": 0.2, "chance": 0.1, "counted": True},
        "code": {"base": 0.1, "score": 0.0, "chance": 0.0, "counted": False},
    }
    report = {"retention": 0.5, "retention_min": 0.1, "retention_interval": [0.4, 0.6], "probes": probes}
    mean, worst = Gate().check(report)
    assert "interval 0.400 to 0.600" in mean
    assert "worst: chat, 1.000 -> 0.200" in worst


@pytest.mark.parametrize("probes", [None, [], {}, {"a": 3}, {"a": {"base": None, "score": 1}}])
def test_odd_reports_do_no_harm(probes: Any) -> None:
    assert (
        len(Gate().check({"retention": 0.1, "retention_min": 0.1, "retention_interval": [None], "probes": probes})) == 2
    )
