"""Two processes under mlx.launch train what one does: each row once, the same losses, one writer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mlx_loopai.config import load_config
from mlx_loopai.errors import InputError
from mlx_loopai.models.micro_batch import MicroBatch
from mlx_loopai.runs.directory import RunDirectory
from mlx_loopai.training.process_group import ProcessGroup
from mlx_loopai.training.run import train
from tests.unit.conftest import ROOT, Heard

LAUNCH = Path(sys.executable).with_name("mlx.launch")
needs_launch = pytest.mark.skipif(not LAUNCH.exists(), reason="mlx.launch is not beside this Python")


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_every_row_is_exactly_one_processs(size: int) -> None:
    heights = [1, 1, 4, 3]
    ids = np.arange(sum(heights) * 2, dtype=np.int32).reshape(-1, 2)
    batches = [MicroBatch(part, part % 3 > 0) for part in np.split(ids, np.cumsum(heights)[:-1])]
    shares = [ProcessGroup(rank, size).share(batches) for rank in range(size)]
    rows = [row for share in shares for batch in share for row in batch.ids.tolist()]
    assert sorted(rows) == ids.tolist()
    sizes = [sum(len(batch.ids) for batch in share) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    assert all((batch.supervised == (batch.ids % 3 > 0)).all() for share in shares for batch in share)


TWO = [str(LAUNCH), "-n", "2", "--backend", "ring", "--"]


def start(command: list[str], recipe: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    training = [sys.executable, "-m", "mlx_loopai", "train", str(recipe), "--out", str(out), "--json", *more]
    environment = os.environ | {"MKL_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [*command, *training],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=pipe,
        stderr=pipe,
        text=True,
        start_new_session=True,
    )


def summary(process: subprocess.Popen[str]) -> dict:
    out, err = process.communicate(timeout=250)
    assert process.returncode == 0, err
    return json.loads(out)


def steps(out: Path) -> list[dict]:
    return [event for event in RunDirectory(out).read_events() if event["event"] == "step"]


@pytest.fixture
def plain_recipe(recipe: str, tmp_path: Path) -> Path:
    """Without dropout, which several processes refuse."""
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.replace("dropout: 0.2", "dropout: 0.0").replace("14", "6"), encoding="utf-8")
    return path


def same_steps(one: Path, other: Path) -> None:
    for each, again in zip(steps(one), steps(other), strict=True):
        assert again["step"] == each["step"]
        assert again["loss"] == pytest.approx(each["loss"], rel=1e-5)
        assert again["supervised_tokens"] == each["supervised_tokens"]


def test_dropout_is_refused_where_each_process_would_draw_its_own(recipe: str, tmp_path: Path, heard: Heard) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe, encoding="utf-8")
    with pytest.raises(InputError, match=r"dropout 0\.2 in 2 processes"):
        train(load_config(path), tmp_path / "run", heard, group=ProcessGroup(1, 2))
    assert not (tmp_path / "run").exists()


@needs_launch
def test_two_processes_train_what_one_does(plain_recipe: Path, tmp_path: Path) -> None:
    alone = summary(start([], plain_recipe, tmp_path / "alone"))
    both = summary(start(TWO, plain_recipe, tmp_path / "both"))
    same_steps(tmp_path / "alone", tmp_path / "both")
    assert both["loss_last"] == pytest.approx(alone["loss_last"], rel=1e-5)


@needs_launch
@pytest.mark.slow
def test_ctrl_c_ends_all_and_both_go_on_from_the_same_step(plain_recipe: Path, tmp_path: Path) -> None:
    summary(start([], plain_recipe, tmp_path / "alone"))
    process = start(TWO, plain_recipe, tmp_path / "both")
    while process.poll() is None and len(steps(tmp_path / "both")) < 2:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the launcher and both processes
    process.communicate(timeout=100)
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    resumed = summary(start(TWO, plain_recipe, tmp_path / "both", "--resume"))
    assert resumed["resumed_from"]
    same_steps(tmp_path / "alone", tmp_path / "both")
