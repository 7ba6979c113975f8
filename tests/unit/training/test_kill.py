"""kill -9 at any moment costs time and nothing else: the resumed adapter is the unbroken one, byte for byte."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mlx_loopai.generation.switch import SWITCH_FILE
from mlx_loopai.runs.directory import RunDirectory
from mlx_loopai.training.checkpoint import complete_checkpoints
from tests.unit.conftest import Cli


def check(run: Path) -> None:
    """Whatever stands in the folder is whole."""
    checkpoints = run / "checkpoints"
    if checkpoints.exists():
        assert sorted(checkpoints.iterdir()) == sorted(complete_checkpoints(checkpoints))
    adapter = run / "adapter"
    if adapter.exists():
        found = {path.name for path in adapter.iterdir()}
        assert found - {SWITCH_FILE} == {"adapters.safetensors", "adapter_config.json", "README.md"}


def same_adapter(run: Path, other: Path) -> bool:
    names = ("adapters.safetensors", "adapter_config.json")
    return all((run / "adapter" / name).read_bytes() == (other / "adapter" / name).read_bytes() for name in names)


def after(seconds: float) -> Callable[[], bool]:
    due = time.monotonic() + seconds
    return lambda: time.monotonic() >= due


def steps_done(run: Path, count: int) -> Callable[[], bool]:
    return lambda: sum(event["event"] == "step" for event in RunDirectory(run).read_events()) >= count


def test_killed_a_few_times_on_its_way(cli: Cli, unbroken: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    moments: list[Callable[[], bool]] = [
        (run / "run.json").exists,
        steps_done(run, 2),
        (run / "checkpoints" / "step-000006").exists,
        (run / ".adapter.tmp").exists,
    ]
    for number, moment in enumerate(moments):
        ended = cli.stop_when(moment, signal.SIGKILL, "--out", str(run), "--quiet", *(["--resume"] if number else []))
        assert ended.status in (-signal.SIGKILL, 0), ended.err
        check(run)
    ended = cli.run("--out", str(run), "--quiet", "--resume")
    assert ended.status == 0, ended.err
    check(run)
    assert same_adapter(run, unbroken)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_fifty_times_at_random(cli: Cli, unbroken: Path, tmp_path: Path) -> None:
    generator = random.Random(0)
    started = time.monotonic()
    assert cli.run("--out", str(tmp_path / "timed"), "--quiet").status == 0
    whole_s = time.monotonic() - started
    run, number, finished, killed = tmp_path / "run0", 0, 0, 0
    while killed < 50:
        resume = ["--resume"] if run.exists() else []
        ended = cli.stop_when(
            after(generator.uniform(0.2, 1.1) * whole_s), signal.SIGKILL, "--out", str(run), "--quiet", *resume
        )
        assert ended.status in (-signal.SIGKILL, 0), ended.err
        killed += ended.status != 0
        check(run)
        if ended.status == 0:
            assert same_adapter(run, unbroken)
            number, finished = number + 1, finished + 1
            run = tmp_path / f"run{number}"
    ended = cli.run("--out", str(run), "--quiet", *(["--resume"] if run.exists() else []))
    assert ended.status == 0, ended.err
    assert same_adapter(run, unbroken)
