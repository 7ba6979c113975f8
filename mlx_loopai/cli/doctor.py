"""`mlx-loopai doctor`: describes this machine, and warns of what would go wrong on it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click

from mlx_loopai.benchmark.conditions import SystemReader, read_state
from mlx_loopai.cli.doctor_mac import Mac, Problem, mac_notes, mac_problems, neighbours_in
from mlx_loopai.cli.output import emit, json_option, padded, quiet_option
from mlx_loopai.errors import LoopaiError, install_command
from mlx_loopai.language import tr
from mlx_loopai.units import GIB, MIB, format_bytes

if TYPE_CHECKING:
    from mlx_loopai.experiments.selftest import Check
    from mlx_loopai.memory.machine import Evidence, Machine

OLDEST_PYTHON = (3, 11)
# With less free disk a run cannot keep its checkpoints and a converted small model.
_LITTLE_DISK_BYTES = 5 * GIB
# The reference BLAS reaches 3 to 5 GFLOP/s on one core, any tuned BLAS at least 20.
_SLOW_GFLOPS = 10.0


@dataclass(frozen=True)
class Facts:
    """The facts about a machine from which `problems` are found."""

    system: str  # as platform.system(): Linux, Darwin
    release: str  # of macOS, or of the kernel
    architecture: str
    python: tuple[int, int, int]
    executable: str
    mlx: str
    mlx_lm: str
    device: str
    metal: bool
    compiler: str | None  # path of g++, with which MLX compiles for the CPU
    mkl: str | None  # path of the library in use
    blas_settings: dict[str, str]
    gflops: float  # of a fp32 matrix product on the default device
    ram_bytes: int
    working_set_bytes: int
    reserve_bytes: int
    usable_bytes: int  # the budget of a plan
    evidence: Evidence
    wired_limit_bytes: int  # of the system; 0: its own policy
    free_disk_bytes: int
    mac: Mac | None = None  # None off a Mac


def problems(facts: Facts) -> list[Problem]:
    """What would go wrong or be slow, each with a cure."""
    found = [*_python_problems(facts), *_speed_problems(facts), *_room_problems(facts)]
    return [*found, *mac_problems(facts.mac)] if facts.mac else found


def _python_problems(facts: Facts) -> list[Problem]:
    found = []
    if facts.python < OLDEST_PYTHON:
        version = ".".join(map(str, facts.python))
        found.append(
            Problem(
                tr("Python {version} is too old", version=version),
                tr("use 3.11 or newer: make setup PYTHON=python3.12"),
            )
        )
    if facts.system == "Darwin" and facts.architecture != "arm64":
        found.append(
            Problem(
                tr("this Python runs under Rosetta or on an Intel Mac: MLX has no Metal there"),
                tr("use an arm64 Python"),
            )
        )
    return found


def _speed_problems(facts: Facts) -> list[Problem]:
    found = []
    if facts.system == "Linux" and facts.mkl is None and facts.gflops < _SLOW_GFLOPS:
        cure = install_command("linux") if facts.architecture == "x86_64" else tr("expect 10x longer runs")
        found.append(
            Problem(
                tr("no MKL: fp32 products run at {gflops:.0f} GFLOP/s on the reference BLAS", gflops=facts.gflops), cure
            )
        )
    if not facts.metal and facts.compiler is None:
        found.append(
            Problem(tr("no g++: MLX cannot fuse element-wise work on the CPU"), tr("install it: apt-get install g++"))
        )
    if facts.system == "Darwin" and facts.architecture == "arm64" and not facts.metal:
        found.append(
            Problem(tr("MLX sees no Metal device"), tr("reinstall mlx; inside a virtual machine there is none"))
        )
    return found


def _room_problems(facts: Facts) -> list[Problem]:
    found = []
    if facts.wired_limit_bytes > facts.ram_bytes - facts.reserve_bytes:
        limit = format_bytes(facts.wired_limit_bytes)
        left = format_bytes(max(facts.ram_bytes - facts.wired_limit_bytes, 0))
        found.append(
            Problem(
                tr("iogpu.wired_limit_mb is raised to {limit}: {left} are left to macOS", limit=limit, left=left),
                "sudo sysctl iogpu.wired_limit_mb=0",
            )
        )
    if facts.free_disk_bytes < _LITTLE_DISK_BYTES:
        found.append(
            Problem(
                tr("{size} free on this disk", size=format_bytes(facts.free_disk_bytes)),
                tr("free some before a long run"),
            )
        )
    return found


def notes(facts: Facts) -> list[str]:
    """Known problems of such machines that cannot be detected beforehand."""
    return mac_notes(facts.release) if facts.metal else []


def gather() -> Facts:
    """Look at this machine; takes a fraction of a second."""
    import mlx.core as mx

    from mlx_loopai._blas import prefer_mkl
    from mlx_loopai.memory.machine import this_machine
    from mlx_loopai.memory.plan import budget_of

    machine: Machine = this_machine()
    return Facts(
        system=platform.system(),
        release=platform.mac_ver()[0] or platform.release(),
        architecture=platform.machine(),
        python=sys.version_info[:3],
        executable=sys.executable,
        mlx=_version("mlx"),
        mlx_lm=_version("mlx-lm"),
        device=machine.name,
        metal=mx.metal.is_available(),
        compiler=shutil.which("g++"),
        mkl=prefer_mkl(),
        blas_settings={name: value for name, value in os.environ.items() if name.startswith(("MKL_", "KMP_", "OMP_"))},
        gflops=_measure_gflops(),
        ram_bytes=machine.ram_bytes,
        working_set_bytes=machine.working_set_bytes,
        reserve_bytes=machine.reserve_bytes,
        usable_bytes=budget_of(machine),
        evidence=machine.evidence,
        wired_limit_bytes=_wired_limit_bytes(),
        free_disk_bytes=shutil.disk_usage(".").free,
        mac=_mac(machine) if platform.system() == "Darwin" else None,
    )


def _mac(machine: Machine) -> Mac:
    reader = SystemReader()
    return Mac(
        release=platform.mac_ver()[0],
        ram_bytes=machine.ram_bytes,
        working_set_bytes=machine.working_set_bytes,
        wired_limit_bytes=_wired_limit_bytes(),
        state=read_state(reader),
        neighbours=neighbours_in(reader.output(["ps", "-axo", "comm="])),
    )


def _version(package: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _measure_gflops(size: int = 512, repeats: int = 3) -> float:
    """fp32 GFLOP/s of a matrix product of `size` on the default device: the best of `repeats`."""
    import mlx.core as mx

    matrix = mx.ones((size, size))
    mx.eval(matrix @ matrix)
    best_s = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        mx.eval(matrix @ matrix)
        best_s = min(best_s, time.perf_counter() - started)
    return 2 * size**3 / best_s / 1e9


def _wired_limit_bytes() -> int:
    if sys.platform != "darwin":
        return 0
    try:
        asked = subprocess.run(["sysctl", "-n", "iogpu.wired_limit_mb"], capture_output=True, text=True, timeout=5)
        return int(asked.stdout) * MIB
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return 0  # an older macOS has no such setting


def document(facts: Facts) -> dict[str, Any]:
    """The JSON document that `--json` prints."""
    return {
        "machine": {"system": facts.system, "release": facts.release, "architecture": facts.architecture},
        "python": {"version": ".".join(map(str, facts.python)), "executable": facts.executable},
        "mlx": {"version": facts.mlx, "mlx_lm": facts.mlx_lm, "device": facts.device, "metal": facts.metal},
        "blas": {"mkl": facts.mkl, "settings": facts.blas_settings, "gflops": round(facts.gflops, 1)},
        "compiler": facts.compiler,
        "memory": {
            "ram_bytes": facts.ram_bytes,
            "working_set_bytes": facts.working_set_bytes,
            "reserve_bytes": facts.reserve_bytes,
            "usable_bytes": facts.usable_bytes,
            "wired_limit_bytes": facts.wired_limit_bytes,
            "evidence": facts.evidence,
        },
        "free_disk_bytes": facts.free_disk_bytes,
        "mac": asdict(facts.mac) if facts.mac else None,
        "problems": [{"what": problem.what, "cure": problem.cure} for problem in problems(facts)],
        "notes": notes(facts),
    }


def text(facts: Facts) -> str:
    """The facts and problems as text for people."""
    from mlx_loopai.memory.machine import EVIDENCE

    system = "macOS" if facts.system == "Darwin" else facts.system
    where = "Metal" if facts.metal else tr("CPU only")
    blas = "Metal" if facts.metal else f"MKL ({facts.mkl})" if facts.mkl else tr("MLX's own")
    settings = " ".join(f"{name}={value}" for name, value in sorted(facts.blas_settings.items()))
    rows = [
        (tr("machine"), f"{facts.device}, {system} {facts.release}, {facts.architecture}"),
        ("python", f"{'.'.join(map(str, facts.python))} ({facts.executable})"),
        ("mlx", f"{facts.mlx}, mlx-lm {facts.mlx_lm}, {where}"),
        (tr("products"), f"{blas}: {facts.gflops:.0f} GFLOP/s in fp32{f', {settings}' if settings else ''}"),
        (
            tr("memory"),
            tr(
                "{ram}; working set {working_set} ({evidence}); {reserve} stay with the system; a run may use {usable}",
                ram=format_bytes(facts.ram_bytes),
                working_set=format_bytes(facts.working_set_bytes),
                evidence=tr(EVIDENCE[facts.evidence]),
                reserve=format_bytes(facts.reserve_bytes),
                usable=format_bytes(facts.usable_bytes),
            ),
        ),
        (tr("disk"), tr("{size} free here", size=format_bytes(facts.free_disk_bytes))),
    ]
    found = problems(facts)
    rows += [(tr("note"), note) for note in notes(facts)]
    rows += [(tr("problem"), f"{problem.what}; {problem.cure}") for problem in found]
    lines = [f"{padded(name, 9)} {value}" for name, value in rows]
    return "\n".join(lines if found else [*lines, tr("no problem found")])


def _selftest(quiet: bool) -> list[Check]:
    from mlx_loopai.cli.listener import progress_listener
    from mlx_loopai.experiments.selftest import N_GROUPS, selftest

    with progress_listener(quiet) as listener:
        listener.stage(tr("selftest"), N_GROUPS)
        return selftest(listener.advance)


def _checks_text(checks: Sequence[Check]) -> str:
    return "\n".join(
        padded(tr("same") if check.passed else tr("DIFFERS"), 10)
        + tr(
            "{name}: {difference:.1e}, at most {bound:g}",
            name=tr(check.name),
            difference=check.difference,
            bound=check.bound,
        )
        for check in checks
    )


@click.command("doctor", short_help="Say what this machine is and what would go wrong on it.")
@click.option(
    "--selftest", "tests", is_flag=True, help="Also train a little in two ways and compare; less than a minute."
)
@json_option
@quiet_option
def command(tests: bool, as_json: bool, quiet: bool) -> None:
    """Show this machine, its Python, its MLX and its memory policy, and warn of what would go wrong.

    The exit status is 0 whatever is found. Scripts read `problems` of --json. With --selftest it is 1 when two ways of
    computing the same thing differ by more than rounding. Add what `doctor --selftest` prints to a bug report.
    """
    facts = gather()
    shown = text(facts)
    known = document(facts)
    checks = _selftest(quiet) if tests else []
    if tests:
        known["selftest"] = [{**asdict(check), "passed": check.passed} for check in checks]
        shown = "\n".join(filter(None, [shown, _checks_text(checks)]))
    emit(known, as_json, shown)
    wrong = [check.name for check in checks if not check.passed]
    if wrong:
        raise LoopaiError(
            tr("selftest: {wrong}: they differ; report it with what is printed above", wrong="; ".join(wrong))
        )
