"""Records the machine and its state before and after a race: load, memory, swap, pressure, heat, power mode.

Values that a system does not provide are None.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Protocol

from mlx_loopai.runs.documents.race import Machine

_MIB = 1 << 20
_UNITS = {"K": 1 << 10, "M": _MIB, "G": 1 << 30}
_PACKAGES = ("mlx", "mlx-lm", "numpy", "mkl", "torch", "transformers", "peft")
_HERE = str(Path(__file__).parent)
_PRESSURE_LEVELS = {"1": "normal", "2": "warning", "4": "critical"}


class Reader(Protocol):
    """Where the figures are read from; tests replace it."""

    system: str

    def text(self, path: str) -> str:
        """A file's text, or "" where it cannot be read."""

    def output(self, command: Sequence[str]) -> str:
        """What a command prints, or "" where it fails."""


class SystemReader:
    """The machine that this runs on."""

    system = platform.system()

    def text(self, path: str) -> str:
        try:
            return Path(path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def output(self, command: Sequence[str]) -> str:
        try:
            done = subprocess.run(list(command), capture_output=True, text=True, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return done.stdout if done.returncode == 0 else ""


@dataclass(frozen=True)
class State:
    """The machine at one moment. swapped_bytes: total ever moved to swap, so that a difference shows new swapping."""

    load: float | None = None
    available_bytes: int | None = None
    swap_used_bytes: int | None = None
    swapped_bytes: int | None = None
    pressure: str | None = None
    thermal: str | None = None
    power: str | None = None


def read_state(reader: Reader) -> State:
    """The state of the machine now."""
    return _macos(reader) if reader.system == "Darwin" else _linux(reader)


def read_machine(reader: Reader) -> Machine:
    """Chip, cores, memory, system, versions, and the settings that decide how many threads compute."""
    if reader.system == "Darwin":
        chip = reader.output(["sysctl", "-n", "machdep.cpu.brand_string"]).strip()
        memory = reader.output(["sysctl", "-n", "hw.memsize"]).strip()
        ram_bytes = int(memory) if memory.isdigit() else None
    else:
        chip = _match(r"^model name\s*:\s*(.+)$", reader.text("/proc/cpuinfo")) or ""
        ram_bytes = _meminfo(reader, "MemTotal")
    return Machine(
        chip=chip or platform.machine(),
        cores=os.cpu_count(),
        ram_bytes=ram_bytes,
        system=f"{reader.system} {platform.release()}",
        python=platform.python_version(),
        commit=reader.output(["git", "-C", _HERE, "rev-parse", "--short", "HEAD"]).strip() or None,
        threads=os.environ.get("MKL_NUM_THREADS") or os.environ.get("OMP_NUM_THREADS"),
        versions={name: found for name in _PACKAGES if (found := _version(name))},
    )


def disturbances(before: State, after: State, cores: int) -> list[str]:
    """Reasons to take figures measured between two states with care; empty if there are none."""
    found = []
    if before.load is not None and before.load > 0.5 * cores:
        found.append(f"other work was running: load {before.load:.1f} on {cores} cores at the start")
    if before.swapped_bytes is not None and after.swapped_bytes is not None:
        moved = after.swapped_bytes - before.swapped_bytes
        if moved > 0:
            found.append(f"{moved // _MIB} MiB were swapped out meanwhile")
    for state in (before, after):
        if state.pressure in ("warning", "critical"):
            found.append(f"memory pressure was {state.pressure}")
        if state.thermal not in (None, "nominal"):
            found.append(f"the chip was slowed by heat: {state.thermal}")
        if state.power == "low power mode":
            found.append("low power mode was on")
    return list(dict.fromkeys(found))


def _linux(reader: Reader) -> State:
    load = reader.text("/proc/loadavg").split()
    total, free = _meminfo(reader, "SwapTotal"), _meminfo(reader, "SwapFree")
    pages = _match(r"^pswpout (\d+)$", reader.text("/proc/vmstat"))
    stalled = _match(r"^some avg10=([\d.]+)", reader.text("/proc/pressure/memory"))
    governor = reader.text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip()
    return State(
        load=float(load[0]) if load else None,
        available_bytes=_meminfo(reader, "MemAvailable"),
        swap_used_bytes=None if total is None or free is None else total - free,
        swapped_bytes=None if pages is None else int(pages) * os.sysconf("SC_PAGE_SIZE"),
        # Share of the last ten seconds in which some process waited for memory.
        pressure=None if stalled is None else _pressure_level(float(stalled)),
        power=governor or None,
    )


def _pressure_level(stalled_percent: float) -> str:
    return "normal" if stalled_percent < 10 else "warning" if stalled_percent < 40 else "critical"


def _macos(reader: Reader) -> State:
    load = _match(r"([\d.]+)", reader.output(["sysctl", "-n", "vm.loadavg"]))
    swap = re.search(r"used = ([\d.]+)([KMG])", reader.output(["sysctl", "-n", "vm.swapusage"]))
    pages = reader.output(["vm_stat"])
    page_bytes = int(_match(r"page size of (\d+) bytes", pages) or 0)
    swapouts = _match(r"^Swapouts:\s*(\d+)", pages)
    free = [int(count) for count in re.findall(r"^Pages (?:free|inactive|speculative):\s*(\d+)", pages, re.MULTILINE)]
    level = reader.output(["sysctl", "-n", "kern.memorystatus_vm_pressure_level"]).strip()
    speed = _match(r"CPU_Speed_Limit\s*=\s*(\d+)", reader.output(["pmset", "-g", "therm"]))
    low_power = _match(r"lowpowermode\s+(\d)", reader.output(["pmset", "-g"]))
    return State(
        load=None if load is None else float(load),
        available_bytes=sum(free) * page_bytes if free else None,
        swap_used_bytes=int(float(swap[1]) * _UNITS[swap[2]]) if swap else None,
        swapped_bytes=None if swapouts is None else int(swapouts) * page_bytes,
        pressure=_PRESSURE_LEVELS.get(level),
        thermal=None if speed is None else "nominal" if speed == "100" else f"CPU limited to {speed} %",
        power=None if low_power is None else "low power mode" if low_power == "1" else "normal",
    )


def _meminfo(reader: Reader, name: str) -> int | None:
    kilobytes = _match(rf"^{name}:\s*(\d+) kB", reader.text("/proc/meminfo"))
    return None if kilobytes is None else int(kilobytes) * 1024


def _match(pattern: str, text: str) -> str | None:
    found = re.search(pattern, text, re.MULTILINE)
    return found[1].strip() if found else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
