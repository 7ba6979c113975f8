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

# Longer than the windows below.
IDS = [5, 7, 11, 13, 40, 2, 60, 7, 9, 30, 31, 17, 3, 5, 80, 22, 41, 7, 8, 12]
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
WINDOWS = {
    "num_hidden_layers": 64, "sliding_window": 8, "sliding_window_pattern": "LLLG",
    "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"] * 16,
}  # fmt: skip
GEMMA3 = {"num_hidden_layers": 7, "sliding_window_pattern": 6}


def llama_cpp_logits(path: Path) -> np.ndarray:
    """(len(IDS), V), with keys and values kept in float32: its default is half precision."""
    llama_cpp = pytest.importorskip("llama_cpp")
    model = llama_cpp.Llama(
        str(path), n_ctx=len(IDS), n_batch=len(IDS), logits_all=True, verbose=False, type_k=0, type_v=0
    )
    model.eval(IDS)
    found = np.array(model.scores[: len(IDS)], np.float32)
    model.close()
    return found


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("exaone4", {}),
        ("exaone4", WINDOWS),
        ("gemma3_text", GEMMA3),
        ("gemma3_text", GEMMA3 | {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
        ("gemma3_text", {"num_hidden_layers": 62, "sliding_window_pattern": 6, "head_dim": 16}),
        ("exaone4", {"rope_scaling": LLAMA3, "rope_theta": 1e6}),
        ("llama", {"rope_scaling": LLAMA3, "rope_theta": 5e5}),
        ("qwen3_moe", {}),
        ("qwen3_5", QWEN35),
        ("qwen3_5", QWEN35 | {"linear_num_key_heads": 4}),
        ("qwen3_5_moe", QWEN35),
    ],
    ids=[
        "exaone4",
        "exaone4 with windows",
        "gemma3",
        "gemma3 scaled",
        "gemma3 of 62 blocks",
        "exaone4 scaled",
        "llama scaled",
        "qwen3_moe",
        "qwen3_5",
        "qwen3_5 of even heads",
        "qwen3_5_moe",
    ],
)
def test_llama_cpp_computes_the_same_and_we_read_it_back(
    tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, changes: dict[str, Any]
) -> None:
    changed = CONFIGS[name] | changes | ({"mlp_only_layers": []} if name == "qwen3_moe" else {})
    monkeypatch.setitem(CONFIGS, name, changed)
    base = write_architecture(tmp_path / "base", name, tiny_model_folder)
    wanted = np.array(load_model(str(base), "fp32").model(mx.array([IDS])))[0]
    convert(base, tmp_path / "out.gguf", target=Target(to="gguf", dtype="fp32"))
    found = llama_cpp_logits(tmp_path / "out.gguf")
    # Its GELU comes from a table in half precision, which 62 blocks in a row make larger.
    assert np.abs(found - wanted).mean() < 1e-2 * np.abs(wanted).mean()
    convert(tmp_path / "out.gguf", tmp_path / "back", target=Target(dtype="fp32"))
    again = load_model(str(tmp_path / "back"), "fp32").model
    np.testing.assert_allclose(np.array(again(mx.array([IDS])))[0], wanted, atol=1e-4)
    if changes.get("rope_scaling") == LLAMA3:
        stored = json.loads((tmp_path / "back" / "config.json").read_text())["rope_scaling"]
        assert {key: stored[key] for key in LLAMA3} == LLAMA3


@pytest.mark.parametrize("form", [{"quantize": "q8_0"}, {"dtype": "fp16"}], ids=["q8_0", "fp16"])
@pytest.mark.parametrize("name", ["qwen3_5", "qwen3_moe", "gemma3_text", "qwen3_5_moe"])
def test_llama_cpp_takes_other_forms_of_them(
    tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, form: dict[str, str]
) -> None:
    """Its kernels stop the process for a convolution in half precision."""
    own = {
        "qwen3_5": QWEN35,
        "qwen3_5_moe": QWEN35 | {"moe_intermediate_size": 32, "shared_expert_intermediate_size": 32},
        "qwen3_moe": {"mlp_only_layers": [], "moe_intermediate_size": 32},
        "gemma3_text": GEMMA3 | {"intermediate_size": 64},
    }
    monkeypatch.setitem(CONFIGS, name, CONFIGS[name] | own[name])
    base = write_architecture(tmp_path / "base", name, tiny_model_folder)
    wanted = np.array(load_model(str(base), "fp32").model(mx.array([IDS])))[0]
    convert(base, tmp_path / "out.gguf", target=Target(to="gguf", **form))
    found = llama_cpp_logits(tmp_path / "out.gguf")
    assert np.abs(found - wanted).mean() < 0.1 * np.abs(wanted).mean()


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("exaone4 with windows", {}, "3 blocks of exaone4 with the windows LLG, where llama.cpp has GGG, are"),
        (
            "exaone4",
            {"num_hidden_layers": 64, "layer_types": ["full_attention"] * 64},
            "64 blocks of exaone4 .* where llama.cpp has LLLG",
        ),
        ("gemma3_text", {}, "not every 6th block sees all is"),
        ("gemma3_text", GEMMA3 | {"query_pre_attn_scalar": 16}, "query_pre_attn_scalar is not llama.cpp's 8 is"),
        ("gemma3_text", GEMMA3 | {"rope_local_base_freq": 5e3}, "rope_local_base_freq is not 10000 is"),
        ("gemma3_text", GEMMA3 | {"rope_scaling": LLAMA3}, "rope_scaling is llama3 is"),
        ("qwen3_5", {}, "has keys and values of different widths is"),
        ("qwen3_5_moe", {}, "a qwen3_5_moe whose linear attention has keys and values of different widths is"),
        ("qwen3_moe", {}, "blocks of qwen3_moe without experts are"),
    ],
)
def test_what_llama_cpp_computes_otherwise_is_refused_by_name(
    tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, changes: dict[str, Any],
    said: str,
) -> None:  # fmt: skip
    monkeypatch.setitem(CONFIGS, name, CONFIGS[name] | changes)
    base = write_architecture(tmp_path / "base", name, tiny_model_folder)
    with pytest.raises(InputError, match=f"{said}.* not written to GGUF"):
        convert(base, tmp_path / "out.gguf", target=Target(to="gguf", dtype="fp32"))
