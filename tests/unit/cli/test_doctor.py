"""`mlx-loopai doctor`: the judgement is pure, so a Mac can be judged on Linux."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from mlx.utils import tree_map

from mlx_loopai.benchmark.conditions import State
from mlx_loopai.cli import doctor
from mlx_loopai.cli.doctor_mac import Mac, neighbours_in
from mlx_loopai.cli.main import main
from mlx_loopai.experiments import selftest
from mlx_loopai.memory.machine import usual_share
from mlx_loopai.units import GIB

MAC = doctor.Facts(
    system="Darwin",
    release="15.6",
    architecture="arm64",
    python=(3, 12, 1),
    executable="/opt/python",
    mlx="0.32.4",
    mlx_lm="0.32.2",
    device="Apple M4",
    metal=True,
    compiler=None,
    mkl=None,
    blas_settings={},
    gflops=2900.0,
    ram_bytes=16 * GIB,
    working_set_bytes=int(10.67 * GIB),
    reserve_bytes=int(4.48 * GIB),
    usable_bytes=int(9.07 * GIB),
    evidence="reported",
    wired_limit_bytes=0,
    free_disk_bytes=100 * GIB,
    mac=Mac(
        release="15.6",
        ram_bytes=16 * GIB,
        working_set_bytes=int(10.67 * GIB),
        wired_limit_bytes=0,
        state=State(swap_used_bytes=GIB, pressure="normal", thermal="nominal", power="normal"),
        neighbours=(),
    ),
)
LINUX = replace(
    MAC,
    mac=None,
    system="Linux",
    architecture="x86_64",
    metal=False,
    compiler="/usr/bin/g++",
    mkl="/v/libmkl_rt.so.3",
    gflops=100.0,
)


@pytest.mark.parametrize("facts", [MAC, LINUX], ids=["mac", "linux"])
def test_a_good_machine_has_no_problem(facts: doctor.Facts) -> None:
    assert doctor.problems(facts) == []
    assert doctor.text(facts).endswith("no problem found")


@pytest.mark.parametrize(
    ("facts", "what", "cure"),
    [
        (replace(MAC, python=(3, 9, 6)), "Python 3.9.6 is too old", "python3.12"),
        (replace(MAC, architecture="x86_64", metal=False, compiler="g"), "Rosetta", "arm64"),
        (replace(MAC, metal=False, compiler="g"), "no Metal device", "reinstall"),
        (replace(MAC, wired_limit_bytes=15 * GIB), "raised to 15.0 GiB: 1.0 GiB are left", "iogpu.wired_limit_mb=0"),
        (replace(MAC, free_disk_bytes=GIB), "1.0 GiB free", "free some"),
        (replace(LINUX, mkl=None, gflops=3.4), "no MKL: fp32 products run at 3 GFLOP/s", "mlx-loopai[linux]"),
        (replace(LINUX, mkl=None, gflops=3.4, architecture="aarch64"), "no MKL", "10x longer"),
        (replace(LINUX, compiler=None), "no g++", "apt-get install g++"),
    ],
)
def test_each_problem_names_its_cure(facts: doctor.Facts, what: str, cure: str) -> None:
    (problem,) = doctor.problems(facts)
    assert what in problem.what
    assert cure in problem.cure
    assert f"{problem.what}; {problem.cure}" in doctor.text(facts)


def on_mac(**changes: Any) -> doctor.Facts:
    assert MAC.mac is not None
    return replace(MAC, mac=replace(MAC.mac, **changes))


@pytest.mark.parametrize(
    ("facts", "what", "cure"),
    [
        (on_mac(state=State(power="low power mode")), "low power mode", "Never"),
        (on_mac(state=State(swap_used_bytes=5 * GIB)), "5.0 GiB are swapped out", "close programs"),
        (on_mac(state=State(pressure="critical")), "memory pressure is critical", "close programs"),
        (on_mac(state=State(thermal="CPU limited to 60 %")), "slowed by heat", "cool"),
        (on_mac(neighbours=("ollama",)), "ollama may hold", "quit"),
        (on_mac(working_set_bytes=8 * GIB, wired_limit_bytes=8 * GIB), "may use 8.0 GiB; Macs like this", "=0"),
    ],
)
def test_what_goes_wrong_on_macs_is_named_with_its_cure(facts: doctor.Facts, what: str, cure: str) -> None:
    (problem,) = doctor.problems(facts)
    assert what in problem.what
    assert cure in problem.cure


def test_versions_of_macos_with_panics_and_the_watchdog_are_noted() -> None:
    assert "3267" in " ".join(doctor.notes(MAC))
    assert "3186" not in " ".join(doctor.notes(MAC))
    assert "3186" in " ".join(doctor.notes(replace(MAC, release="26.4.1")))
    assert doctor.notes(LINUX) == []


def test_programs_that_hold_the_gpu_are_found_by_name() -> None:
    listed = "/sbin/launchd\n/Applications/LM Studio.app/Contents/MacOS/LM Studio\nollama\n/usr/bin/ollamaX\n"
    assert neighbours_in(listed) == ("ollama", "LM Studio")


def test_the_usual_working_set_is_that_of_the_table() -> None:
    assert usual_share(16 * GIB, "15.6") == pytest.approx(2 / 3)
    assert usual_share(16 * GIB, "26.4.1") == 0.74
    assert usual_share(36 * GIB, "15.7") == 0.75
    assert usual_share(512 * GIB, "26.0") == 0.75  # no log is known: never too much


def test_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["mlx"]["version"].startswith("0.32")
    assert 0 < found["memory"]["usable_bytes"] < found["memory"]["ram_bytes"]
    assert found["blas"]["gflops"] > 0
    assert main(["doctor"]) == 0
    assert "machine " in capsys.readouterr().out


def test_a_mac_is_told_of_the_watchdog_and_nobody_else() -> None:
    assert "--resume" in doctor.text(MAC)
    assert doctor.notes(LINUX) == []


def test_the_selftest_passes_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--selftest", "--json"]) == 0
    checks = json.loads(capsys.readouterr().out)["selftest"]
    assert [check["name"] for check in checks if not check["passed"]] == []
    assert len(checks) == 6


def test_a_defect_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    gradient = selftest.compiled_gradient
    monkeypatch.setattr(selftest, "compiled_gradient", lambda model, form: wrong(gradient(model, form)))
    monkeypatch.setattr(selftest, "_GROUPS", selftest._GROUPS[:1])
    assert main(["doctor", "--selftest"]) == 1
    printed = capsys.readouterr()
    assert "DIFFERS   gradient of the compiled step against the eager one" in printed.out
    assert "gradient of the compiled step" in printed.err.splitlines()[-1]
    assert "loss of the compiled step" not in printed.err.splitlines()[-1]


def wrong(gradient: Callable[..., Any]) -> Callable[..., Any]:
    """It, with a gradient that is one part in a thousand too large."""

    def computed(*arguments: Any) -> tuple[Any, Any]:
        losses, found = gradient(*arguments)
        return losses, tree_map(lambda array: 1.001 * array, found)

    return computed
