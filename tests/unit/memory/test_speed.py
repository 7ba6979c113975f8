"""Peaks of chips, and the short measurement of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mlx_loopai.memory import speed
from mlx_loopai.memory.machine import _CHIPS, named_machine
from mlx_loopai.memory.speed import chip_peak, measured_peak, peak_of


def test_known_chips_have_a_peak_and_others_none() -> None:
    peak = chip_peak("Apple M4 Pro")
    assert peak is not None
    assert (peak.bytes_s, peak.flops_s) == (273e9, 9.2e12)
    assert chip_peak("AMD EPYC") is None


def test_the_planners_bandwidths_are_the_same() -> None:
    table = yaml.safe_load(Path(speed.__file__).with_name("chips.yaml").read_text(encoding="utf-8"))
    assert {name.split()[1] for name in table} == {"M1", "M2", "M3", "M4", "M5"}
    for name, chip in _CHIPS.items():
        words = ["Apple", name.split("-")[0].upper(), *(part.title() for part in name.split("-")[1:])]
        assert table[" ".join(words)]["gigabytes_s"] == pytest.approx(chip.gigabytes_s, abs=1)


def test_a_mac_by_name_has_the_peak_of_its_chip() -> None:
    assert peak_of(named_machine("m4-max-64gb")) == chip_peak("Apple M4 Max")
    assert peak_of(named_machine("m1-8gb")) == chip_peak("Apple M1")


def test_this_machine_is_measured() -> None:
    found = measured_peak()
    assert found.bytes_s > 1e6
    assert found.flops_s > 1e6
