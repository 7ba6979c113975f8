"""Keeps a run inside its memory plan while it trains. The only file that sets MLX's limits.

MLX never refuses an allocation. Over its memory limit it only waits for running work, and then the system compresses
and swaps. So a run is planned first, its cache is capped here, and it watches its memory and stops in time.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Literal

import mlx.core as mx

from mlx_loopai.language import tr
from mlx_loopai.memory.plan import BUDGET_SHARE, MemoryPlan
from mlx_loopai.units import MIB, format_bytes

Verdict = Literal["ok", "warn", "shrink", "stop"]

# Up to this factor over the budget a run goes on: 0.85 W * 1.15 is still below W.
_OVER_BUDGET = 1.15
_WIRED_MARGIN = 1.1
_LEAST_CACHE_BYTES = 32 * MIB
_MOST_MICRO_DIVISOR = 64
# Wired limits came with macOS 15.
_FIRST_WIRED_MACOS = 15
# Shares of Linux's memory still available at which it is called tight, and critical.
_TIGHT_SHARE, _CRITICAL_SHARE = 0.05, 0.02
_FOOTPRINT_OFFSET = 16 + 7 * 8  # of ri_phys_footprint in struct rusage_info_v2: a 16-byte uuid, seven 64-bit counters
_RUSAGE_INFO_V2 = 2


class Pressure(IntEnum):
    """The levels of macOS's `kern.memorystatus_vm_pressure_level`."""

    NORMAL = 1
    WARN = 2
    CRITICAL = 4


@dataclass(frozen=True)
class Reading:
    """Memory at one moment, in bytes: MLX's live and cached buffers, the whole process, and the system's pressure."""

    active_bytes: int
    cache_bytes: int
    resident_bytes: int
    pressure: Pressure = Pressure.NORMAL

    @property
    def used_bytes(self) -> int:
        """The larger of MLX's count and the system's: each misses something that the other sees."""
        return max(self.active_bytes + self.cache_bytes, self.resident_bytes)


@contextmanager
def guarded(plan: MemoryPlan) -> Iterator[MemoryWatch]:
    """Inside, MLX's cache is capped as planned and, on Metal, what a step always needs is wired; restored at the end.

    Yields: the watch, to be polled once per step. MLX's memory limit is not changed.
    """
    with ExitStack() as restored:
        restored.callback(mx.set_cache_limit, mx.set_cache_limit(plan.terms["cache"]))
        wired = wired_bytes(plan)
        if wired:
            restored.callback(mx.set_wired_limit, mx.set_wired_limit(wired))
        yield MemoryWatch(plan.budget_bytes, plan.terms["cache"])


def wired_bytes(plan: MemoryPlan) -> int:
    """Bytes to keep from being compressed: base, adapter and optimizer with a margin, at most 0.85 W; 0 off Metal.

    Wiring the whole working set, as mlx-lm does, has frozen 16 GB machines.
    """
    machine = plan.machine
    if machine.backend != "metal" or (machine.macos or 0) < _FIRST_WIRED_MACOS:
        return 0
    always = sum(plan.terms[name] for name in ("weights", "adapter", "gradients", "optimizer", "penalty"))
    return min(int(_WIRED_MARGIN * always), int(BUDGET_SHARE * machine.working_set_bytes))


class MemoryWatch:
    """Compares the memory that a run uses with its budget, once per step.

    `poll` returns "ok", or one of three others. "warn": the first time that the budget is exceeded or the system is
    short of memory. "shrink": every later time; the cache limit has been lowered, and `micro_divisor` asks for smaller
    micro-batches. "stop": save and end, before the system swaps. `reason` explains in one line the last verdict other
    than "ok".
    """

    def __init__(
        self,
        budget_bytes: int,
        cache_bytes: int,
        read: Callable[[], Reading] | None = None,
        set_cache_limit: Callable[[int], object] = mx.set_cache_limit,
        clear_cache: Callable[[], object] = mx.clear_cache,
    ) -> None:
        self.budget_bytes = budget_bytes
        self.stop_bytes = int(_OVER_BUDGET * budget_bytes)
        self.reason = ""
        self.micro_divisor = 1
        self._warned = False
        self._cache_limit = cache_bytes
        self._read = read or read_memory
        self._set_cache_limit = set_cache_limit
        self._clear_cache = clear_cache

    def poll(self) -> Verdict:
        """The verdict on this moment."""
        now = self._read()
        verdict = self._judge(now)
        if verdict == "warn":
            self._warned = True
        if verdict == "shrink":
            self._shrink(now)
        if verdict != "ok":
            self.reason = self._explain(now)
        return verdict

    def _judge(self, now: Reading) -> Verdict:
        # Only what the cache holds can be given back.
        if now.pressure is Pressure.CRITICAL or now.used_bytes - now.cache_bytes > self.stop_bytes:
            return "stop"
        if now.used_bytes <= self.budget_bytes and now.pressure is Pressure.NORMAL:
            return "ok"
        if not self._warned:
            return "warn"
        can_shrink = self._cache_limit > _LEAST_CACHE_BYTES or self.micro_divisor < _MOST_MICRO_DIVISOR
        return "shrink" if can_shrink else "ok"

    def _shrink(self, now: Reading) -> None:
        """Keep less in the cache from now on, and empty it, unless the system is already looking for pages."""
        self._cache_limit = max(self._cache_limit // 2, _LEAST_CACHE_BYTES)
        self._set_cache_limit(self._cache_limit)
        self.micro_divisor = min(2 * self.micro_divisor, _MOST_MICRO_DIVISOR)
        if now.pressure is Pressure.NORMAL:
            self._clear_cache()

    def _explain(self, now: Reading) -> str:
        pressure = (
            "" if now.pressure is Pressure.NORMAL else tr(", memory pressure {name}", name=now.pressure.name.lower())
        )
        return tr(
            "{used_bytes} used ({cache_bytes} of it cache) of a budget of {budget_bytes}{pressure}",
            used_bytes=format_bytes(now.used_bytes),
            cache_bytes=format_bytes(now.cache_bytes),
            budget_bytes=format_bytes(self.budget_bytes),
            pressure=pressure,
        )


def read_memory() -> Reading:
    """Memory of this process and pressure of this system, now."""
    resident, pressure = _read_macos() if sys.platform == "darwin" else _read_linux()
    return Reading(mx.get_active_memory(), mx.get_cache_memory(), resident, pressure)


def _read_macos() -> tuple[int, Pressure]:
    """(physical footprint, pressure); 0 and NORMAL where the system does not tell."""
    system = ctypes.CDLL(None)
    level, size = ctypes.c_int(0), ctypes.c_size_t(ctypes.sizeof(ctypes.c_int))
    failed = system.sysctlbyname(
        b"kern.memorystatus_vm_pressure_level", ctypes.byref(level), ctypes.byref(size), None, ctypes.c_size_t(0)
    )
    pressure = Pressure(level.value) if not failed and level.value in tuple(Pressure) else Pressure.NORMAL
    usage = ctypes.create_string_buffer(512)
    if system.proc_pid_rusage(os.getpid(), _RUSAGE_INFO_V2, ctypes.byref(usage)):
        return 0, pressure
    return int.from_bytes(usage.raw[_FOOTPRINT_OFFSET : _FOOTPRINT_OFFSET + 8], sys.byteorder), pressure


def _read_linux() -> tuple[int, Pressure]:
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        memory = Path("/proc/meminfo").read_text(encoding="utf-8")
    except OSError:
        return 0, Pressure.NORMAL
    resident = _kilobytes(status, "VmRSS")
    return resident, linux_pressure(_kilobytes(memory, "MemAvailable"), _kilobytes(memory, "MemTotal"))


def linux_pressure(available_bytes: int, total_bytes: int) -> Pressure:
    """How near Linux is to swapping or killing: below 5 % available is a warning, below 2 % critical."""
    if not total_bytes or available_bytes >= _TIGHT_SHARE * total_bytes:
        return Pressure.NORMAL
    return Pressure.CRITICAL if available_bytes < _CRITICAL_SHARE * total_bytes else Pressure.WARN


def _kilobytes(text: str, name: str) -> int:
    found = re.search(rf"^{name}:\s*(\d+) kB", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
