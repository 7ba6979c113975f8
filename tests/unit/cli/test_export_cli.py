"""`mlx-loopai export`: what each program finds, and the command that is left to type."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Ended


@pytest.mark.parametrize(
    ("program", "model", "last"),
    [
        ("ollama", "run.gguf", "ollama create run -f"),
        ("lmstudio", "mlx-loopai/run/run.gguf", "lms load mlx-loopai/run"),
        ("hf", "", "mlx-loopai chat --model"),
    ],
)
def test_a_run_for_another_program(
    command_line: Callable[..., Ended], finished_run: Path, tmp_path: Path, program: str, model: str, last: str
) -> None:
    out = tmp_path / "out"
    arguments = ("export", finished_run / "run", "--to", program, "--out", out)
    ended = command_line(*arguments, "--json")
    assert ended.status == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert Path(found["out"]) == (out / model if model else out)
    assert found["command"].startswith(last)
    assert "--steer" in found["notes"][-1]
    if program == "hf":
        assert (out / "model.safetensors").is_file()
    else:
        assert (out / model).read_bytes()[:4] == b"GGUF"
    if program == "ollama":
        lines = (out / "run.Modelfile").read_text(encoding="utf-8").splitlines()
        assert lines[0] == "FROM ./run.gguf"
        assert any(line.startswith("PARAMETER stop ") for line in lines)
        assert {path.name for path in out.iterdir()} == {"run.gguf", "run.Modelfile"}
    assert command_line(*arguments).status == 2


@pytest.mark.parametrize(("program", "folder", "status"), [("ollama", ".", 2), ("lmstudio", "mlx-loopai/run", 0)])
def test_a_modelfile_of_the_owner_stays(
    command_line: Callable[..., Ended], finished_run: Path, tmp_path: Path, program: str, folder: str, status: int
) -> None:
    own = tmp_path / folder / "run.Modelfile"
    own.parent.mkdir(parents=True, exist_ok=True)
    own.write_text("FROM mine\n")
    ended = command_line("export", finished_run / "run", "--to", program, "--out", tmp_path)
    assert ended.status == status, ended.stderr
    assert own.read_text() == "FROM mine\n"
    assert (own.parent / "run.gguf").exists() == (status == 0)
