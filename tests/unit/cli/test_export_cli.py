"""`mlx-loopai export`: what each program finds, and the command that is left to type."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest

from converters.convert import convert
from mlx_loopai.config import LoraOptions
from mlx_loopai.models.full import apply_full
from mlx_loopai.models.load import load_model
from mlx_loopai.models.whole_model import save_whole_model
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


def test_a_whole_model_that_a_run_trained_is_exported_as_it_is(
    command_line: Callable[..., Ended], tiny_model_folder: Path, tmp_path: Path
) -> None:
    loaded = load_model(str(tiny_model_folder), "bf16")
    for layer in apply_full(loaded.model, LoraOptions()).values():
        layer.delta = mx.full(layer.delta.shape, 0.5)
    notes = {"base": str(tiny_model_folder), "base_hash": loaded.base_hash, "system_prompt": "이야기꾼"}
    save_whole_model(tmp_path / "run" / "model", tiny_model_folder, loaded.model, LoraOptions(), notes)
    ended = command_line("export", tmp_path / "run", "--to", "ollama", "--out", tmp_path / "out", "--json")
    assert ended.status == 0, ended.stderr
    assert 'SYSTEM """이야기꾼"""' in (tmp_path / "out" / "run.Modelfile").read_text(encoding="utf-8")
    convert(tmp_path / "out" / "run.gguf", tmp_path / "back")
    name = "model.layers.0.mlp.up_proj.weight"
    trained, back = (mx.load(str(tmp_path / place / "model.safetensors"))[name] for place in ("run/model", "back"))
    assert mx.array_equal(trained, back)
    assert not mx.array_equal(trained, mx.load(str(tiny_model_folder / "model.safetensors"))[name].astype(mx.bfloat16))
