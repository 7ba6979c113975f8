"""GGUF out and in of what llama.cpp has another form for, held against its own logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from converters.convert import convert
from converters.writers.target import Target
from mlx_loopai.errors import InputError
from mlx_loopai.models.load import load_model
from tests.tiny_architectures import CONFIGS, write_architecture

IDS = [5, 7, 11, 13, 40, 2, 60, 7]
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 16.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def written(folder: Path, name: str, tokenizer: Path, changes: dict[str, Any]) -> Path:
    """A tiny model of an architecture with `changes` to its configuration."""
    base = write_architecture(folder, name, tokenizer)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | changes))
    return base


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("exaone4", {}),
        ("exaone4", {"rope_scaling": LLAMA3, "rope_theta": 1e6}),
        ("llama", {"rope_scaling": LLAMA3, "rope_theta": 5e5}),
        ("qwen3_moe", {}),
    ],
    ids=["exaone4", "exaone4 scaled", "llama scaled", "qwen3_moe"],
)
def test_llama_cpp_computes_the_same_and_we_read_it_back(
    tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, changes: dict[str, Any]
) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    if name == "qwen3_moe":
        monkeypatch.setitem(CONFIGS, name, CONFIGS[name] | {"mlp_only_layers": []})
    base = written(tmp_path / "base", name, tiny_model_folder, changes)
    wanted = np.array(load_model(str(base), "fp32").model(mx.array([IDS])))[0]
    convert(base, tmp_path / "out.gguf", target=Target(to="gguf", dtype="fp32"))
    model = llama_cpp.Llama(
        str(tmp_path / "out.gguf"), n_ctx=len(IDS), n_batch=len(IDS), logits_all=True, verbose=False
    )
    model.eval(IDS)
    found = np.array(model.scores[: len(IDS)], np.float32)
    model.close()
    assert np.abs(found - wanted).max() < 1e-2 * np.abs(wanted).max()
    convert(tmp_path / "out.gguf", tmp_path / "back", target=Target(dtype="fp32"))
    again = load_model(str(tmp_path / "back"), "fp32").model
    np.testing.assert_allclose(np.array(again(mx.array([IDS])))[0], wanted, atol=1e-4)
    if "rope_scaling" in changes:
        stored = json.loads((tmp_path / "back" / "config.json").read_text())["rope_scaling"]
        assert {key: stored[key] for key in LLAMA3} == LLAMA3


def test_windows_and_other_architectures_are_refused_by_name(tmp_path: Path, tiny_model_folder: Path) -> None:
    for name, said in (
        ("exaone4 with windows", "blocks of exaone4 that see a window are not written to GGUF"),
        ("gemma3_text", "gemma3_text is not written to GGUF"),
        ("qwen3_5", "qwen3_5 is not written to GGUF"),
        ("qwen3_moe", "blocks of qwen3_moe without experts are not written to GGUF"),
    ):
        base = write_architecture(tmp_path / name.replace(" ", "-"), name, tiny_model_folder)
        with pytest.raises(InputError, match=said):
            convert(base, tmp_path / f"{name}.gguf", target=Target(to="gguf", dtype="fp32"))
