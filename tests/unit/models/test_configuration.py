"""What a configuration means is written out, or refused by name; tests/parity compares it with transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mlx_loopai.errors import InputError
from mlx_loopai.models.configuration import complete_configuration, foreign_quantization, loader_overrides
from mlx_loopai.models.load import build_model, load_model
from mlx_loopai.models.rope import yarn_attention_factor

BASE: dict[str, Any] = {
    "model_type": "qwen2",
    "vocab_size": 32,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-6,
    "rope_theta": 5000.0,
    "tie_word_embeddings": False,
}
NEOX = BASE | {
    "model_type": "gpt_neox",
    "intermediate_size": 256,
    "num_key_value_heads": 4,
    "layer_norm_eps": 1e-5,
    "hidden_act": "gelu",
}


def scaled(**changes: Any) -> dict[str, Any] | None:
    return complete_configuration(BASE | {"rope_scaling": changes}, "here").get("rope_scaling")


@pytest.mark.parametrize("scaling", [{"rope_type": "default"}, {"type": "default"}, {}, None])
def test_the_default_type_is_no_scaling(scaling: dict[str, Any] | None) -> None:
    assert "rope_scaling" not in complete_configuration(BASE | {"rope_scaling": scaling}, "here")


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        ({}, 1.1386294361119891),
        ({"attention_factor": 1.0}, 1.0),
        ({"attention_factor": 0.7}, 0.7),
        ({"mscale": 0.7}, 1.1386294361119891),  # transformers ignores one without the other
        ({"mscale_all_dim": 0.7}, 1.1386294361119891),
        ({"mscale": 1.0, "mscale_all_dim": 0.5}, 1.1386294361119891 / 1.0693147180559945),
        ({"mscale": 1.0, "mscale_all_dim": 0.5, "attention_factor": 1.5}, 1.5),
    ],
)
def test_mlx_lm_computes_yarns_attention_factor_from_what_is_written(keys: dict[str, Any], wanted: float) -> None:
    config = complete_configuration(BASE | {"rope_scaling": {"rope_type": "yarn", "factor": 4.0} | keys}, "here")
    rope = build_model(config).layers[0].self_attn.rope
    assert rope.mscale == pytest.approx(wanted, rel=1e-12)
    assert complete_configuration(config, "here") == config
    assert yarn_attention_factor(config["rope_scaling"]) == pytest.approx(wanted, rel=1e-12)


def test_yarns_other_keys_are_written_out() -> None:
    found = scaled(type="yarn", factor=4, beta_fast=0, beta_slow=None)
    assert found == {"rope_type": "yarn", "type": "yarn", "factor": 4, "original_max_position_embeddings": 128}
    assert scaled(rope_type="yarn", factor=4, beta_fast=8.0)["beta_fast"] == 8.0
    assert scaled(rope_type="yarn", original_max_position_embeddings=32)["factor"] == 4


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        ({"rope_type": "longrope", "factor": 2.0}, "linear, dynamic, llama3, yarn are"),
        ({"rope_type": "yarn", "factor": 4.0, "truncate": False}, "truncate"),
        ({"rope_type": "yarn", "factor": 1.0, "attention_factor": 1.2}, "attention_factor 1.2"),
        ({"rope_type": "yarn", "factor": 4.0, "beta_fast": "32"}, "beta_fast is '32'"),
        ({"rope_type": "linear"}, "factor is None"),
        ({"rope_type": "linear", "factor": 0}, "factor is 0"),
        ({"rope_type": "llama3", "factor": 4.0}, "low_freq_factor is None"),
        ({"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 4, "high_freq_factor": 4}, "not above"),
        ({"rope_theta": 1.0, "partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"full_attention": {"rope_type": "default"}}, "differs by layer type"),
        ([1], "rope_scaling is"),
    ],
)
def test_scaling_that_mlx_lm_computes_otherwise_is_refused(scaling: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        complete_configuration(BASE | {"rope_scaling": scaling}, "here")


def test_precedence_is_that_of_transformers() -> None:
    both = {"rope_scaling": {"rope_type": "linear", "type": "yarn", "factor": 2.0, "rope_theta": 7.0}}
    found = complete_configuration(BASE | both | {"rope_parameters": {"rope_type": "default"}}, "here")
    assert found["rope_theta"] == 7.0
    # mlx-lm prefers the older name, which must say the same.
    assert found["rope_scaling"] == {"rope_type": "linear", "type": "linear", "factor": 2.0}
    assert "rope_parameters" not in found
    beside = {"rope_scaling": {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 8}}
    found = complete_configuration(BASE | beside | {"original_max_position_embeddings": 16}, "here")
    assert found["rope_scaling"]["original_max_position_embeddings"] == 16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rope_traditional": True}, "rope_traditional"),
        ({"model_type": "qwen3", "attention_bias": True}, "attention_bias is true"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ({"use_sliding_window": True, "max_window_layers": 1}, "use_sliding_window"),
        ({"hidden_size": 60}, "15 values of a head"),
        ({"model_type": "mistral", "sliding_window": -1}, "sliding_window is -1"),
        (NEOX | {"attention_bias": False}, "attention_bias is false"),
        (NEOX | {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "not supported for gpt_neox"),
        (NEOX | {"rotary_pct": 0.2}, "3 values of a head of 16 are rotated"),
    ],
)
def test_keys_that_mlx_lm_computes_otherwise_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        complete_configuration(BASE | change, "here")


def test_keys_that_would_mislead_mlx_lm_are_taken_out() -> None:
    sliding = {"layer_types": ["sliding_attention"] * 2, "sliding_window": 4}
    llama = complete_configuration(BASE | sliding | {"model_type": "llama"}, "here")
    assert not llama.keys() & sliding.keys()
    mistral = complete_configuration(BASE | {"model_type": "mistral", "attention_bias": True}, "here")
    assert "attention_bias" not in mistral
    # The window that transformers assumes closes the context.
    wide = {"model_type": "mistral", "max_position_embeddings": 9000}
    assert complete_configuration(BASE | wide, "here")["max_position_embeddings"] == 4096
    assert complete_configuration(BASE | wide | {"sliding_window": None}, "here")["max_position_embeddings"] == 9000
    reaching_nothing = {"use_sliding_window": True, "max_window_layers": 2}
    assert complete_configuration(BASE | reaching_nothing, "here")["use_sliding_window"] is False


@pytest.mark.parametrize(("kind", "wanted"), [("qwen2", 32768), ("llama", 2048), ("mistral", None)])
def test_a_missing_context_is_that_of_transformers(kind: str, wanted: int | None) -> None:
    config = {key: value for key, value in BASE.items() if key != "max_position_embeddings"}
    found = complete_configuration(config | {"model_type": kind}, "here")["max_position_embeddings"]
    assert found == (wanted or 4096)


@pytest.mark.parametrize(
    ("config", "tool"),
    [
        ({"quant_method": "awq", "bits": 4}, "awq"),
        ({"quant_method": "gptq"}, "gptq"),
        ({"quant_method": "fp8"}, "fp8"),
        ({"load_in_4bit": True}, "bitsandbytes"),
        ({"anything": 1}, "an unknown tool"),
        ("awq", "an unknown tool"),
    ],
)
def test_the_tool_that_quantised_is_named(config: Any, tool: str) -> None:
    assert foreign_quantization({"quantization_config": config}) == tool


def test_mlxs_own_quantisation_is_not_foreign() -> None:
    own = {"group_size": 64, "bits": 4}
    assert foreign_quantization({"quantization": own, "quantization_config": own}) is None
    assert foreign_quantization({}) is None


def test_overrides_hold_only_what_differs() -> None:
    assert loader_overrides(BASE, "here") == {}
    nested = {"rope_theta": None, "rope_parameters": {"rope_theta": 9.0}}
    assert loader_overrides(BASE | nested, "here") == {"rope_theta": 9.0, "rope_parameters": None}


def test_a_model_is_opened_as_its_configuration_means_it(tiny_model_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model_folder, tmp_path / "own"))
    raw = json.loads((folder / "config.json").read_text())
    scaling = {"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.0, "original_max_position_embeddings": 64}
    (folder / "config.json").write_text(json.dumps(raw | {"rope_scaling": scaling}))
    assert load_model(str(folder)).model.layers[0].self_attn.rope.mscale == pytest.approx(1.0)


def test_a_head_of_its_own_is_kept_whatever_tie_word_embeddings_says(tiny_model_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model_folder, tmp_path / "own"))
    arrays = dict(mx.load(str(folder / "model.safetensors")))
    own = mx.random.normal(arrays["model.embed_tokens.weight"].shape)
    mx.save_safetensors(str(folder / "model.safetensors"), arrays | {"lm_head.weight": own})
    assert mx.array_equal(load_model(str(folder)).model.lm_head.weight, own)
    copied = arrays | {"lm_head.weight": arrays["model.embed_tokens.weight"]}
    mx.save_safetensors(str(folder / "model.safetensors"), copied)
    assert "lm_head" not in load_model(str(folder)).model


GEMMA = {
    "model_type": "gemma3_text",
    "vocab_size": 32,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}


def test_a_flat_scaling_of_gemma_3_wins_over_the_nested_one() -> None:
    nested = {
        "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 777.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 333.0},
    }
    flat = {"rope_type": "linear", "factor": 4.0, "rope_theta": 99.0}
    found = complete_configuration(GEMMA | {"rope_parameters": nested, "rope_scaling": flat}, "here")
    assert (found["rope_theta"], found["rope_local_base_freq"]) == (99.0, 333.0)
    assert found["rope_scaling"]["factor"] == 4.0
    assert found["rope_parameters"]["full_attention"]["factor"] == 4.0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"layer_types": None, "num_hidden_layers": 4}, "every block sees a window only"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5, 1 is computed"),
        ({"rope_scaling": [1]}, "rope_scaling is .* where an object is needed"),
        ({"is_causal": False}, "is_causal is false"),
    ],
)
def test_what_nobody_computes_of_gemma_3_is_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        complete_configuration(GEMMA | change, "here")
