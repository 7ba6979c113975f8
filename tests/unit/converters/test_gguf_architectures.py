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


# llama.cpp's kernels want keys and values of one width, and rotate four values of a head or more.
QWEN35 = {
    "head_dim": 32,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "linear_num_key_heads": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("exaone4", {}),
        ("exaone4", {"rope_scaling": LLAMA3, "rope_theta": 1e6}),
        ("llama", {"rope_scaling": LLAMA3, "rope_theta": 5e5}),
        ("qwen3_moe", {}),
        ("qwen3_5", QWEN35),
        ("qwen3_5", QWEN35 | {"linear_num_key_heads": 4}),
    ],
    ids=["exaone4", "exaone4 scaled", "llama scaled", "qwen3_moe", "qwen3_5", "qwen3_5 of even heads"],
)
def test_llama_cpp_computes_the_same_and_we_read_it_back(
    tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, changes: dict[str, Any]
) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    changed = CONFIGS[name] | changes | ({"mlp_only_layers": []} if name == "qwen3_moe" else {})
    monkeypatch.setitem(CONFIGS, name, changed)
    base = write_architecture(tmp_path / "base", name, tiny_model_folder)
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


@pytest.mark.parametrize("form", [{"quantize": "q8_0"}, {"dtype": "fp16"}], ids=["q8_0", "fp16"])
@pytest.mark.parametrize("name", ["qwen3_5", "qwen3_moe"])
def test_llama_cpp_takes_other_forms_of_them(
    tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, form: dict[str, str]
) -> None:
    """Its kernels stop the process for a convolution in half precision."""
    llama_cpp = pytest.importorskip("llama_cpp")
    own = QWEN35 if name == "qwen3_5" else {"mlp_only_layers": [], "moe_intermediate_size": 32}
    monkeypatch.setitem(CONFIGS, name, CONFIGS[name] | own)
    base = write_architecture(tmp_path / "base", name, tiny_model_folder)
    wanted = np.array(load_model(str(base), "fp32").model(mx.array([IDS])))[0]
    convert(base, tmp_path / "out.gguf", target=Target(to="gguf", **form))
    model = llama_cpp.Llama(
        str(tmp_path / "out.gguf"), n_ctx=len(IDS), n_batch=len(IDS), logits_all=True, verbose=False
    )
    model.eval(IDS)
    found = np.array(model.scores[: len(IDS)], np.float32)
    model.close()
    assert np.abs(found - wanted).mean() < 0.1 * np.abs(wanted).mean()


def test_windows_and_other_architectures_are_refused_by_name(tmp_path: Path, tiny_model_folder: Path) -> None:
    for name, said in (
        ("exaone4 with windows", "blocks of exaone4 that see a window are not written to GGUF"),
        ("gemma3_text", "gemma3_text is not written to GGUF"),
        ("qwen3_5", "has keys and values of different widths is not written to GGUF"),
        ("qwen3_5_moe", "qwen3_5_moe is not written to GGUF"),
        ("qwen3_moe", "blocks of qwen3_moe without experts are not written to GGUF"),
    ):
        base = write_architecture(tmp_path / name.replace(" ", "-"), name, tiny_model_folder)
        with pytest.raises(InputError, match=said):
            convert(base, tmp_path / f"{name}.gguf", target=Target(to="gguf", dtype="fp32"))
