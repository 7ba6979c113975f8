"""SIGKILL in the middle: the output does not get its name, and the next run cleans up or goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from converters.convert import convert
from converters.writers import safetensors_file
from converters.writers.target import Target

KILLED_HALFWAY = """
import os, signal, sys
from pathlib import Path
from converters.convert import convert
from converters.writers import safetensors_file
from converters.writers.target import Target

safetensors_file.plan_shards.__defaults__ = (20_000,)
def stop(stage, done, total):
    if done > total / 2:
        os.kill(os.getpid(), signal.SIGKILL)
source, out, to = sys.argv[1:]
convert(source, Path(out), target=Target(to=to, dtype="bf16"), on_progress=stop)
"""


@pytest.mark.parametrize("to", ["mlx", "gguf"])
def test_a_run_killed_halfway(
    tiny_model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    to: str,
) -> None:
    out = tmp_path / f"out.{to}"
    arguments = [sys.executable, "-c", KILLED_HALFWAY, str(tiny_model_folder), str(out), to]
    assert subprocess.run(arguments).returncode == -signal.SIGKILL
    left = {path.name for path in tmp_path.iterdir()}
    assert left == ({f".{out.name}.work"} | ({f".{out.name}.partial"} if to == "mlx" else set()))
    monkeypatch.setattr(safetensors_file.plan_shards, "__defaults__", (20_000,))
    kept = {path.name: path.stat().st_ino for path in tmp_path.glob(".*.partial/*.safetensors")}
    target = Target(to=to, dtype="bf16")
    convert(tiny_model_folder, out, target=target)
    beside = {"out.Modelfile"} if to == "gguf" else set()
    assert {path.name for path in tmp_path.iterdir()} == {out.name} | beside
    whole = convert(tiny_model_folder, tmp_path / f"whole.{to}", target=target).out
    if to == "gguf":
        assert out.read_bytes() == whole.read_bytes()
        return
    # The last of them was not finished.
    assert len(kept) > 1
    assert sum((out / name).stat().st_ino == inode for name, inode in kept.items()) >= len(kept) - 1
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in whole.iterdir()
    }
