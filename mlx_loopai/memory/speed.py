"""Peak compute and memory bandwidth: of an Apple chip by name, or of this machine by a short measurement."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import yaml

from mlx_loopai.memory.machine import Machine

_TABLE = Path(__file__).with_name("chips.yaml")
# The short measurement: a product large enough to run at full speed, and more numbers than any cache holds.
_SIDE, _READ_NUMBERS, _REPEATS = 768, 1 << 24, 3


@dataclass(frozen=True)
class Peak:
    """A chip's peak: bytes read a second and floating-point operations a second."""

    bytes_s: float
    flops_s: float


def chip_peak(chip: str) -> Peak | None:
    """The peak of a chip by the name that macOS gives it, such as `Apple M4 Pro`; None where it is not known."""
    found = yaml.safe_load(_TABLE.read_text(encoding="utf-8")).get(chip)
    return Peak(found["gigabytes_s"] * 1e9, found["teraflops"] * 1e12) if found else None


def peak_of(machine: Machine) -> Peak | None:
    """The peak of this Mac, or of one by name such as `m4-max-64gb`; None where it is not known."""
    chip = machine.name.rpartition("-")[0].replace("-", " ").title()
    return chip_peak(machine.name) or chip_peak(f"Apple {chip}")


def measured_peak() -> Peak:
    """The rates that a matrix product and a sum over many numbers reach here; takes some tenths of a second."""
    import mlx.core as mx  # a plan for another machine needs none

    square = mx.ones((_SIDE, _SIDE))
    numbers = mx.ones((_READ_NUMBERS,))
    mx.eval(square, numbers, square @ square, numbers.sum())  # the first use starts threads and reserves buffers

    def seconds(compute: object) -> float:
        started = time.perf_counter()
        mx.eval(compute)
        return time.perf_counter() - started

    product = min(seconds(square @ square) for _ in range(_REPEATS))
    reading = min(seconds(numbers.sum()) for _ in range(_REPEATS))
    return Peak(bytes_s=numbers.nbytes / reading, flops_s=2.0 * _SIDE**3 / product)
