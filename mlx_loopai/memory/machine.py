"""How much memory a machine has and how much of it a run may use: this machine, or a Mac by name.

The working set W is what Metal calls `recommendedMaxWorkingSetSize`. On a Mac it is read from the system. Apple
publishes no table of it, so `named_machine` takes figures from people's logs, and says how good each one is.

Source: logs of llama.cpp, MLX and PyTorch on named machines. Up to macOS 15, W is 2/3 of a memory below 36 GiB, and 3/4
of a larger one. Since macOS 26 it is more, and its share grows with the memory. The sysctl `iogpu.wired_limit_mb`
changes W.
"""

from __future__ import annotations

import difflib
import os
import platform
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from mlx_loopai.errors import InputError
from mlx_loopai.language import later, tr
from mlx_loopai.units import GIB

Backend = Literal["metal", "cpu"]
# reported: read from this machine; seen: in a log of such a machine; derived: the rule of its neighbours.
Evidence = Literal["reported", "seen", "derived"]
EVIDENCE: dict[Evidence, str] = {"reported": later("reported"), "seen": later("seen"), "derived": later("derived")}

MACOS_VERSIONS = (15, 26)
# One array may hold 0.75 of the default working set (seen on macOS 26, assumed on 15).
_BUFFER_SHARE = 0.75
# A cgroup without a limit reads "max" or a number near 2^63.
_NO_LIMIT_BYTES = 1 << 60


# The name of the computer that this runs on.
THIS = "this"


@dataclass(frozen=True)
class Machine:
    """Memory and speed of a computer. `cores` counts GPU cores on Metal, CPU cores otherwise.

    `bandwidth_bytes_s` is the memory's nominal rate, None where unknown. `evidence` says where `working_set_bytes`
    comes from, `macos` which policy it follows (None off a Mac).
    """

    name: str
    ram_bytes: int
    working_set_bytes: int
    max_buffer_bytes: int
    backend: Backend
    cores: int
    bandwidth_bytes_s: float | None = None
    evidence: Evidence = "reported"
    macos: int | None = None

    @property
    def reserve_bytes(self) -> int:
        """Memory left to the system and other programs."""
        if self.backend == "cpu":
            return max(GIB, self.ram_bytes // 10)
        return min(max(int(0.28 * self.ram_bytes), int(2.5 * GIB)), 8 * GIB)


@dataclass(frozen=True)
class _Chip:
    cores: int
    gigabytes_s: int
    ram_gib: tuple[int, ...]


# The largest GPU of each chip with its nominal bandwidth, and the memory sizes it was sold with.
_CHIPS = {
    "m1": _Chip(8, 68, (8, 16)),
    "m1-pro": _Chip(16, 200, (16, 32)),
    "m1-max": _Chip(32, 400, (32, 64)),
    "m1-ultra": _Chip(64, 800, (64, 128)),
    "m2": _Chip(10, 100, (8, 16, 24)),
    "m2-pro": _Chip(19, 200, (16, 32)),
    "m2-max": _Chip(38, 400, (32, 64, 96)),
    "m2-ultra": _Chip(76, 800, (64, 128)),
    "m3": _Chip(10, 100, (8, 16, 24)),
    "m3-pro": _Chip(18, 150, (18, 36)),
    "m3-max": _Chip(40, 400, (36, 48, 64, 96, 128)),
    "m4": _Chip(10, 120, (16, 24, 32)),
    "m4-pro": _Chip(20, 273, (24, 48, 64)),
    "m4-max": _Chip(40, 546, (36, 48, 64, 128)),
}
# Memory in GiB -> share of it that is the working set, and whether a log of such a machine shows it.
_SHARES: dict[int, dict[int, tuple[float, Evidence]]] = {
    15: {
        8: (2 / 3, "seen"),
        16: (2 / 3, "seen"),
        18: (2 / 3, "derived"),
        24: (2 / 3, "seen"),
        32: (2 / 3, "seen"),
        36: (3 / 4, "seen"),
        48: (3 / 4, "seen"),
        64: (3 / 4, "seen"),
        96: (3 / 4, "seen"),
        128: (3 / 4, "derived"),
    },
    # Where no log is known: the share under the older macOS, or of the next smaller machine, which is never too much.
    26: {
        8: (2 / 3, "derived"),
        16: (0.74, "seen"),
        18: (0.74, "derived"),
        24: (0.74, "seen"),
        32: (0.78, "seen"),
        36: (0.78, "seen"),
        48: (0.78, "seen"),
        64: (0.81, "seen"),
        96: (0.81, "derived"),
        128: (0.84, "seen"),
    },
}


def package_versions() -> dict[str, str]:
    """Versions of the system, Python, this package and the packages that compute, to be kept with a result."""
    packages = ("mlx-loopai", "mlx", "mlx-lm", "transformers", "numpy")
    system = {"system": platform.platform(terse=True), "python": platform.python_version()}
    return system | {name: version(name) for name in packages}


def machine_names() -> list[str]:
    """Every name that `named_machine` knows, such as `m4-16gb`."""
    return [f"{chip}-{ram}gb" for chip, entry in _CHIPS.items() for ram in entry.ram_gib]


def find_machine(name: str, macos: int = 15) -> Machine:
    """This computer, or the Mac of that name. Raises: InputError for an unknown one."""
    return this_machine() if name == THIS else named_machine(name, macos)


def named_machine(name: str, macos: int = 15) -> Machine:
    """The Mac called `name` (chip, memory: `m4-16gb`, `m3-max-96gb`) under macOS 15 (and older) or 26.

    Raises: InputError for an unknown name, with the near ones, or another macOS.
    """
    if macos not in MACOS_VERSIONS:
        raise InputError(tr("`macos` {macos}: known are 15 (and older) and 26; take the nearest", macos=macos))
    known = machine_names()
    wanted = name.strip().lower().replace("_", "-").replace(" ", "-")
    if wanted not in known:
        raise InputError(
            tr(
                "`machine` {name}: unknown machine; near: {near}; or this",
                name=name,
                near=", ".join(_near(wanted, known)),
            )
        )
    chip_name, _, size = wanted.rpartition("-")
    chip, ram_gib = _CHIPS[chip_name], int(size.removesuffix("gb"))
    share, evidence = _SHARES[macos][ram_gib]
    working_set = int(share * ram_gib * GIB)
    return Machine(
        name=wanted,
        ram_bytes=ram_gib * GIB,
        working_set_bytes=working_set,
        max_buffer_bytes=int(_BUFFER_SHARE * working_set),
        backend="metal",
        cores=chip.cores,
        bandwidth_bytes_s=chip.gigabytes_s * 1e9,
        evidence=evidence,
        macos=macos,
    )


def this_machine() -> Machine:
    """This computer as the system and MLX report it now.

    On a Mac W is Metal's own figure. Elsewhere the memory (or the container's smaller limit) is the working set.
    """
    # Imported here: everything else of this module serves plans for other machines, without mlx.
    import mlx.core as mx

    if not mx.metal.is_available():
        return _cpu_machine(_ram_bytes(), os.cpu_count() or 1)
    return _metal_machine(dict(mx.device_info()), _ram_bytes())


def _metal_machine(info: dict[str, str | int], ram_bytes: int) -> Machine:
    """A Mac from MLX's device information; a missing key falls back to the older policy's share."""
    ram = int(info.get("memory_size") or ram_bytes)
    reported = int(info.get("max_recommended_working_set_size") or 0)
    working_set = reported or int(_share_of(ram) * ram)
    release = platform.mac_ver()[0].partition(".")[0]
    return Machine(
        name=str(info.get("device_name") or "Apple silicon"),
        ram_bytes=ram,
        working_set_bytes=working_set,
        max_buffer_bytes=int(info.get("max_buffer_length") or _BUFFER_SHARE * working_set),
        backend="metal",
        cores=os.cpu_count() or 1,
        evidence="reported" if reported else "derived",
        macos=int(release) if release.isdigit() else None,
    )


def usual_share(ram_bytes: int, release: str) -> float:
    """The share of the memory that is the working set of a Mac under that macOS, such as `26.4`, as logs show it."""
    major = release.partition(".")[0]
    table = _SHARES[26 if major.isdigit() and int(major) >= 26 else 15]
    known = table.get(round(ram_bytes / GIB))
    return known[0] if known else _share_of(ram_bytes)


def _share_of(ram_bytes: int) -> float:
    return 3 / 4 if ram_bytes >= 36 * GIB else 2 / 3


def _cpu_machine(ram_bytes: int, cores: int) -> Machine:
    return Machine(
        name=f"{platform.system()} {platform.machine()} CPU",
        ram_bytes=ram_bytes,
        working_set_bytes=ram_bytes,
        max_buffer_bytes=ram_bytes,
        backend="cpu",
        cores=cores,
    )


def _ram_bytes() -> int:
    """Physical memory, or the smaller limit of the container that this process lives in."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if sys.platform != "linux":
        return physical
    return limited_ram(physical, _read_text)


def limited_ram(physical_bytes: int, read: Callable[[str], str]) -> int:
    """The smallest of `physical_bytes`, /proc/meminfo's total and the cgroup's limits; `read` gives a file's text."""
    limits = [physical_bytes]
    total = re.search(r"^MemTotal:\s*(\d+) kB", read("/proc/meminfo"), re.MULTILINE)
    if total:
        limits.append(int(total[1]) * 1024)
    for file in _cgroup_files(read("/proc/self/cgroup")):
        text = read(file).strip()
        if text.isdigit() and int(text) < _NO_LIMIT_BYTES:
            limits.append(int(text))
    return min(limit for limit in limits if limit > 0)


def _cgroup_files(membership: str) -> list[str]:
    """Files that may hold this process's memory limit: cgroup version 2 at each level above, then version 1."""
    found = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
    for line in membership.splitlines():
        _, controllers, group = [*line.split(":", 2), "", ""][:3]
        levels = [part for part in group.split("/") if part]
        for depth in range(1, len(levels) + 1):
            path = "/".join(levels[:depth])
            if not controllers:
                found.append(f"/sys/fs/cgroup/{path}/memory.max")
            elif "memory" in controllers.split(","):
                found.append(f"/sys/fs/cgroup/memory/{path}/memory.limit_in_bytes")
    return found


def _read_text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _near(wanted: str, known: list[str]) -> list[str]:
    """Machines of the same chip, else the names spelt alike, else every chip once."""
    chip = re.match(r"m[1-4](-pro|-max|-ultra)?", wanted)
    same_chip = [name for name in known if chip and name.rpartition("-")[0] == chip[0]]
    return same_chip or difflib.get_close_matches(wanted, known, n=4, cutoff=0.4) or [f"{chip}-..gb" for chip in _CHIPS]
