from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tiny_vision_folder import write_vision_folder
from tests.unit.cli.conftest import Ended, write_rows

CommandLine = Callable[..., Ended]


@pytest.fixture
def adapter(tiny_model_folder: Path, tmp_path: Path) -> Path:
    from mlx_loopai.config import LoraOptions
    from mlx_loopai.models.adapters import save_adapter
    from mlx_loopai.models.load import load_model
    from mlx_loopai.models.lora import apply_lora

    loaded = load_model(str(tiny_model_folder))
    apply_lora(loaded.model, LoraOptions(rank=2), seed=0)
    save_adapter(tmp_path / "adapter", loaded.model, LoraOptions(rank=2), loaded.base_hash)
    return tmp_path / "adapter"


@pytest.mark.parametrize("name", ["attention", "hidden", "gradients", "lora"])
def test_arrays_and_a_summary(
    name: str, tiny_model_folder: Path, adapter: Path, tmp_path: Path, command_line: CommandLine
) -> None:
    arguments = ["--model", str(tiny_model_folder), "--adapter", str(adapter)] if name != "lora" else [str(adapter)]
    if name == "gradients":
        arguments += ["--data", str(write_rows(tmp_path / "rows.jsonl", 6))]
    ended = command_line(
        "diagnose", name, *arguments, "--out", str(tmp_path / "out"), "--no-pictures", "--json", "--quiet"
    )
    assert ended.status == 0, ended.stderr
    document = json.loads(ended.stdout)
    assert document["files"] == [str(tmp_path / "out" / f"{name}.npz")]
    arrays = np.load(tmp_path / "out" / f"{name}.npz")
    assert arrays.files
    assert all(np.isfinite(arrays[key]).all() for key in arrays.files)
    assert len(document) > 1


def test_attention_on_a_picture(tiny_model_folder: Path, tmp_path: Path, command_line: CommandLine) -> None:
    Image.new("RGB", (24, 16), "red").save(tmp_path / "a.png")
    (tmp_path / "asked.txt").write_text("무엇인가요?\n", encoding="utf-8")
    folder = write_vision_folder(tmp_path / "model", "qwen2_vl", tiny_model_folder)
    arguments = ["--text", str(tmp_path / "asked.txt"), "--image", str(tmp_path / "a.png"), "--no-pictures", "--json"]
    ended = command_line("diagnose", "attention", "--model", str(folder), *arguments, "--out", str(tmp_path / "out"))
    assert ended.status == 0, ended.stderr
    assert json.loads(ended.stdout)["mass"]["picture"] > 0
    ended = command_line("diagnose", "attention", "--model", str(tiny_model_folder), *arguments)
    assert ended.status == 2
    assert "reads text only" in ended.stderr


@pytest.mark.parametrize("name", ["attention", "hidden", "gradients", "lora"])
def test_pictures(name: str, tiny_model_folder: Path, adapter: Path, tmp_path: Path, command_line: CommandLine) -> None:
    pytest.importorskip("matplotlib", reason="pictures need mlx-loopai[plots]")
    arguments = ["--model", str(tiny_model_folder), "--adapter", str(adapter)] if name != "lora" else [str(adapter)]
    if name == "gradients":
        arguments += ["--data", str(write_rows(tmp_path / "rows.jsonl", 6))]
    ended = command_line("diagnose", name, *arguments, "--out", str(tmp_path / "out"))
    assert ended.status == 0, ended.stderr
    assert (tmp_path / "out" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"


def test_without_matplotlib_the_way_on_is_said_before_anything_is_computed(
    tiny_model_folder: Path, tmp_path: Path, command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    ended = command_line("diagnose", "attention", "--model", str(tiny_model_folder), "--out", str(tmp_path / "out"))
    assert ended.status == 2
    assert "pip install 'mlx-loopai[plots]'" in ended.stderr
    assert "--no-pictures" in ended.stderr
    assert not (tmp_path / "out").exists()


def test_an_empty_text_is_said(tiny_model_folder: Path, tmp_path: Path, command_line: CommandLine) -> None:
    path = tmp_path / "empty.txt"
    path.write_text("\n\n")
    ended = command_line(
        "diagnose", "attention", "--model", str(tiny_model_folder), "--text", str(path), "--no-pictures"
    )
    assert ended.status == 2
    assert "no line of two tokens" in ended.stderr
