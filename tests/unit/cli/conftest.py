"""Rows to train on, a finished run, and `mlx-loopai` called in this process."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from mlx_loopai.cli.main import main

N_ROWS = 10


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    stdout: str
    stderr: str


def write_rows(path: Path, count: int = N_ROWS) -> Path:
    rows = [
        {"prompt": f"{number}번째 밤 이야기", "completion": f"옛날에 {number}마리 호랑이가 살았습니다. " * 2}
        for number in range(count)
    ]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def rows_file(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl")


@pytest.fixture
def command_line(capfd: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Runs `mlx-loopai` with the given arguments; what C libraries print is caught, too."""

    def run(*arguments: str | Path) -> Ended:
        capfd.readouterr()
        status = main([str(argument) for argument in arguments])
        printed = capfd.readouterr()
        return Ended(status, printed.out, printed.err)

    return run


@pytest.fixture(scope="session")
def finished_run(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rows.jsonl and the run `run` of two steps on it, made in the folder. Read only: copy it."""
    folder = tmp_path_factory.mktemp("finished")
    write_rows(folder / "rows.jsonl")
    arguments = [
        "train",
        "--model",
        str(tiny_model_folder),
        "--data",
        "rows.jsonl",
        "--out",
        "run",
        "--quiet",
        "--plain",
    ]
    with contextlib.chdir(folder):
        assert main([*arguments, "--set", "train.max_steps=2"]) == 0
    return folder
