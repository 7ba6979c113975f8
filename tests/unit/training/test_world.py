"""Two processes under mlx.launch train what one does: each row once, the same losses, one writer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mlx_loopai.data.batches import MicroBatch
from mlx_loopai.training.events import RunDirectory
from mlx_loopai.training.world import World

from .conftest import ROOT

LAUNCH = Path(sys.executable).with_name("mlx.launch")


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_every_row_is_exactly_one_processs(size: int) -> None:
    heights = [1, 1, 4, 3]
    ids = np.arange(sum(heights) * 2, dtype=np.int32).reshape(-1, 2)
    batches = [MicroBatch(part, part % 3 > 0) for part in np.split(ids, np.cumsum(heights)[:-1])]
    shares = [World(rank, size).share(batches) for rank in range(size)]
    rows = [row for share in shares for batch in share for row in batch.ids.tolist()]
    assert sorted(rows) == ids.tolist()
    sizes = [sum(len(batch.ids) for batch in share) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    assert all((batch.supervised == (batch.ids % 3 > 0)).all() for share in shares for batch in share)


def run(command: list[str], recipe: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    training = [sys.executable, "-m", "mlx_loopai.cli.main", "train", str(recipe), "--out", str(out), "--json", *more]
    environment = os.environ | {"MKL_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [*command, *training], cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=200
    )


def steps(out: Path) -> list[dict]:
    return [event for event in RunDirectory(out).read_events() if event["event"] == "step"]


@pytest.mark.skipif(not LAUNCH.exists(), reason="mlx.launch is not beside this Python")
def test_two_processes_train_what_one_does(recipe: str, tmp_path: Path) -> None:
    plain = recipe.replace("dropout: 0.2", "dropout: 0.0").replace("max_steps: 14", "max_steps: 6")
    (tmp_path / "recipe.yaml").write_text(plain, encoding="utf-8")
    alone = run([], tmp_path / "recipe.yaml", tmp_path / "alone")
    assert alone.returncode == 0, alone.stderr
    launch = [str(LAUNCH), "-n", "2", "--backend", "ring", "--"]
    both = run(launch, tmp_path / "recipe.yaml", tmp_path / "both")
    assert both.returncode == 0, both.stderr
    one, two = steps(tmp_path / "alone"), steps(tmp_path / "both")
    assert [step["step"] for step in two] == list(range(1, 7))
    for each, other in zip(one, two, strict=True):
        assert other["loss"] == pytest.approx(each["loss"], rel=1e-5)
        assert other["supervised_tokens"] == each["supervised_tokens"]
    last = json.loads(both.stdout.splitlines()[-1]) if both.stdout.count("\n") == 1 else json.loads(both.stdout)
    assert last["loss_last"] == pytest.approx(json.loads(alone.stdout)["loss_last"], rel=1e-5)
