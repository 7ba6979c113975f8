"""Every key of docs/conversion.md: what it says of us holds, with --verify as the judge.

Where torch is installed, transformers is one of its readings.
"""

from __future__ import annotations

import importlib
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from converters.convert import convert
from converters.names import expected_tensors
from converters.readers import open_checkpoint
from converters.writers.target import Target
from mlx_loopai.errors import InputError, LoopaiError
from mlx_loopai.models import rope
from mlx_loopai.models.architectures import ARCHITECTURES, gemma3_text, qwen3_5, qwen3_moe
from mlx_loopai.models.configuration import complete_configuration
from mlx_loopai.models.configuration_keys import KEYS, KINDS
from mlx_loopai.models.unused_keys import unused_fields
from tests.tiny_files import write_tokenizer

BASE: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}
MISSING = object()
NEOX = {
    "rms_norm_eps": MISSING,
    "intermediate_size": 128,
    "num_key_value_heads": 4,
    "layer_norm_eps": 1e-5,
    "hidden_act": "gelu_new",
}
DELTA = {
    "head_dim": 16,
    "full_attention_interval": 2,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 12,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
# What each architecture has beside, or instead of, the settings of BASE.
OWN: dict[str, dict[str, Any]] = {
    "gpt_neox": NEOX,
    "qwen3_moe": EXPERTS | {"num_hidden_layers": 3, "head_dim": 16, "norm_topk_prob": True, "mlp_only_layers": [1]},
    "qwen3_5": DELTA,
    "qwen3_5_moe": DELTA | EXPERTS | {"shared_expert_intermediate_size": 24},
    "exaone4": {"num_hidden_layers": 4, "sliding_window": 8, "sliding_window_pattern": "LLLG"},
    "gemma3_text": {
        "hidden_size": 64,  # whose root is the same in bfloat16
        "num_hidden_layers": 4,
        "head_dim": 16,
        "sliding_window": 8,
        "sliding_window_pattern": 2,
        "query_pre_attn_scalar": 24,
    },
}
YARN = {"rope_type": "yarn", "factor": 4.0}
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
SAME, REFUSED = "same", "refused"


def scaled(**changes: Any) -> dict[str, Any]:
    return {"rope_scaling": YARN | changes}


# name -> (kind, changes of config.json, what becomes of it)
PROBES: dict[str, list[tuple[str, dict[str, Any], str]]] = {
    **{name: [("qwen2", {name: MISSING}, REFUSED)] for name in ("vocab_size", "hidden_size", "num_hidden_layers")},
    "num_attention_heads": [("llama", {"num_attention_heads": MISSING}, REFUSED), ("llama", {"num_attention_heads": 2}, SAME)],
    "intermediate_size": [("gpt_neox", {"intermediate_size": 64}, REFUSED), ("llama", {"intermediate_size": 48}, SAME)],
    "num_key_value_heads": [("llama", {"num_key_value_heads": MISSING}, SAME), ("gpt_neox", {"num_key_value_heads": 2}, SAME)],
    "head_dim": [
        ("qwen3", {"head_dim": 16}, SAME),
        ("qwen3", {"head_dim": MISSING}, SAME),
        ("llama", {"head_dim": 16}, SAME),
        ("llama", {"head_dim": None}, SAME),
        ("qwen2", {"head_dim": 16}, REFUSED),
        ("llama", {"head_dim": 7}, REFUSED),
    ],
    "hidden_act": [("llama", {"hidden_act": "gelu"}, REFUSED), ("gpt_neox", {"hidden_act": "relu"}, REFUSED), ("gpt_neox", {}, SAME)],
    "rms_norm_eps": [("qwen2", {"rms_norm_eps": MISSING}, REFUSED), ("qwen2", {"rms_norm_eps": 1e-2}, SAME)],
    "layer_norm_eps": [("gpt_neox", {"layer_norm_eps": MISSING}, REFUSED), ("gpt_neox", {"layer_norm_eps": 1e-2}, SAME)],
    "max_position_embeddings": [("llama", {"max_position_embeddings": MISSING, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, SAME)],
    "tie_word_embeddings": [
        ("llama", {"tie_word_embeddings": True}, SAME),
        ("llama", {"tie_word_embeddings": MISSING}, SAME),
        ("qwen2", {"tie_word_embeddings": MISSING}, SAME),
        ("gpt_neox", {"tie_word_embeddings": True}, SAME),
    ],
    "attention_bias": [
        ("llama", {"attention_bias": True}, SAME),
        ("mistral", {"attention_bias": True}, SAME),
        ("qwen2", {"attention_bias": False}, SAME),
        ("qwen3", {"attention_bias": True}, REFUSED),
        ("gpt_neox", {"attention_bias": False}, REFUSED),
    ],
    "mlp_bias": [("llama", {"mlp_bias": True}, SAME), ("mistral", {"mlp_bias": True}, SAME)],
    "use_parallel_residual": [("gpt_neox", {"use_parallel_residual": value}, SAME) for value in (MISSING, False)],
    "rope_theta": [(kind, {"rope_theta": value}, SAME) for kind in ("qwen2", "qwen3", "llama") for value in (MISSING, 77.0)],
    "rotary_emb_base": [("gpt_neox", {"rotary_emb_base": value}, SAME) for value in (MISSING, 77.0)],
    "rotary_pct": [("gpt_neox", {"rotary_pct": value}, SAME) for value in (MISSING, 1.0, 0.5)] + [("gpt_neox", {"rotary_pct": 0.4}, REFUSED)],
    "partial_rotary_factor": [("llama", {"partial_rotary_factor": 0.5}, REFUSED), ("llama", {"partial_rotary_factor": 1.0}, SAME)],
    "rope_traditional": [("llama", {"rope_traditional": True}, REFUSED), ("llama", {"rope_traditional": False}, SAME)],
    "rope_parameters": [
        ("qwen2", {"rope_parameters": {"rope_type": "default", "rope_theta": 55.0}}, SAME),
        ("qwen3", {"rope_theta": 9.0, "rope_parameters": {"rope_theta": 55.0}}, SAME),
        ("llama", {"rope_parameters": {"full_attention": {"rope_theta": 5.0}}}, REFUSED),
        ("gpt_neox", {"rope_parameters": {"rope_theta": 55.0, "partial_rotary_factor": 0.5}}, SAME),
    ],
    "rope_scaling": [
        ("llama", {"rope_scaling": {}, "rope_parameters": YARN}, SAME),
        ("llama", {"rope_scaling": YARN, "rope_parameters": {"rope_theta": 9.0}}, SAME),
        ("gpt_neox", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, REFUSED),
    ],
    "rope_scaling.rope_type": [
        ("qwen2", {"rope_scaling": {"rope_type": "default"}}, SAME),
        ("qwen2", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, SAME),
        ("qwen3", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, SAME),
        ("llama", {"rope_scaling": LLAMA3}, SAME),
        *[("llama", {"rope_scaling": {"rope_type": kind, "factor": 2.0}}, REFUSED) for kind in ("longrope", "su", "mrope", "proportional", "x")],
    ],
    "rope_scaling.type": [("qwen2", {"rope_scaling": {"type": "linear", "rope_type": "yarn", "factor": 2.0}}, SAME), ("qwen2", {"rope_scaling": {"type": "linear", "factor": 2.0}}, SAME)],
    "rope_scaling.rope_theta": [("llama", scaled(rope_theta=99.0) | {"rope_theta": 7.0}, SAME)],
    "rope_scaling.partial_rotary_factor": [("llama", scaled(partial_rotary_factor=0.5), REFUSED)],
    "rope_scaling.factor": [("llama", {"rope_scaling": {"rope_type": "linear"}}, REFUSED), ("llama", scaled(factor=None, original_max_position_embeddings=16), SAME)],
    "rope_scaling.original_max_position_embeddings": [("llama", scaled(original_max_position_embeddings=16), SAME), ("llama", scaled(), SAME), ("llama", {"rope_scaling": LLAMA3}, SAME)],
    "original_max_position_embeddings": [("llama", scaled(original_max_position_embeddings=16) | {"original_max_position_embeddings": 32}, SAME)],
    "rope_scaling.low_freq_factor": [("llama", {"rope_scaling": LLAMA3 | {"low_freq_factor": 2.0}}, SAME), ("llama", {"rope_scaling": {"rope_type": "llama3", "factor": 4.0, "high_freq_factor": 4.0}}, REFUSED)],
    "rope_scaling.high_freq_factor": [("llama", {"rope_scaling": LLAMA3 | {"high_freq_factor": 8.0}}, SAME), ("llama", {"rope_scaling": LLAMA3 | {"high_freq_factor": 1.0}}, REFUSED)],
    "rope_scaling.attention_factor": [*[("qwen2", scaled(attention_factor=value), SAME) for value in (0.6, 1.0, 1.5)], ("qwen2", scaled(attention_factor=1.5, factor=1.0), REFUSED)],
    "rope_scaling.beta_fast": [("qwen2", scaled(beta_fast=value), SAME) for value in (0, None, 8.0)],
    "rope_scaling.beta_slow": [("qwen2", scaled(beta_slow=value), SAME) for value in (0, None, 4.0)],
    "rope_scaling.mscale": [("qwen2", scaled(mscale=0.5), SAME), ("qwen2", scaled(mscale=0.5, mscale_all_dim=1.0), SAME)],
    "rope_scaling.mscale_all_dim": [("qwen2", scaled(mscale_all_dim=0.5), SAME)],
    "rope_scaling.truncate": [("qwen2", scaled(truncate=True), SAME), ("qwen2", scaled(truncate=False), REFUSED)],
    "sliding_window": [
        ("mistral", {"sliding_window": 16}, SAME),
        ("mistral", {"sliding_window": None}, SAME),
        ("llama", {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}, SAME),
        ("qwen2", {"sliding_window": 8, "use_sliding_window": False}, SAME),
    ],
    "use_sliding_window": [("qwen2", {"use_sliding_window": True}, REFUSED), ("qwen3", {"use_sliding_window": True, "max_window_layers": 0}, REFUSED)],
    "max_window_layers": [("qwen2", {"use_sliding_window": True, "max_window_layers": 2}, SAME)],
    "layer_types": [("qwen2", {"layer_types": ["sliding_attention"] * 2}, REFUSED), ("qwen2", {"layer_types": ["full_attention"] * 2}, SAME), ("mistral", {"layer_types": ["sliding_attention"] * 2, "sliding_window": None}, SAME)],
    "is_causal": [("llama", {"is_causal": False}, REFUSED), ("qwen3", {"is_causal": True}, SAME), ("gpt_neox", {"is_causal": 0}, REFUSED)],
    "quantization_config": [("qwen2", {"quantization_config": {"quant_method": "awq"}}, REFUSED)],
}  # fmt: skip


FULL_ROPE, LOCAL_ROPE = {"rope_type": "default", "rope_theta": 55.0}, {"rope_type": "default", "rope_theta": 9.0}
LINEAR = {"rope_type": "linear", "factor": 2.0}
# The same for the architectures that are no llamas.
MORE: dict[str, list[tuple[str, dict[str, Any], str]]] = {
    **{name: [(kind, {name: MISSING}, REFUSED) for kind in OWN if kind != "gpt_neox"] for name in ("vocab_size", "hidden_size", "num_hidden_layers")},
    "num_attention_heads": [("gemma3_text", {"num_attention_heads": MISSING}, SAME), ("exaone4", {"num_attention_heads": MISSING}, REFUSED)],
    "intermediate_size": [("qwen3_moe", {"intermediate_size": MISSING}, SAME), ("qwen3_5_moe", {"intermediate_size": MISSING}, SAME), ("qwen3_5", {"intermediate_size": MISSING}, REFUSED)],
    "num_key_value_heads": [("gemma3_text", {"num_key_value_heads": MISSING, "num_attention_heads": 8}, SAME), ("qwen3_moe", {"num_key_value_heads": MISSING}, SAME)],
    "head_dim": [(kind, {"head_dim": MISSING}, SAME) for kind in ("qwen3_moe", "qwen3_5", "exaone4", "gemma3_text")] + [("exaone4", {"head_dim": 7}, REFUSED)],
    "hidden_act": [(kind, {"hidden_act": "gelu"}, REFUSED) for kind in ("qwen3_moe", "qwen3_5", "qwen3_5_moe", "exaone4", "gemma3_text")],
    "hidden_activation": [("gemma3_text", {"hidden_activation": "silu"}, REFUSED), ("gemma3_text", {"hidden_activation": "gelu_pytorch_tanh"}, SAME)],
    "rms_norm_eps": [(kind, {"rms_norm_eps": MISSING}, SAME) for kind in ("qwen3_moe", "qwen3_5", "gemma3_text")] + [("exaone4", {"rms_norm_eps": MISSING}, SAME)],
    "max_position_embeddings": [("gemma3_text", {"max_position_embeddings": MISSING}, SAME)],
    "tie_word_embeddings": [(kind, {"tie_word_embeddings": tied}, SAME) for kind in OWN for tied in (True, MISSING)],
    "attention_bias": [(kind, {"attention_bias": True}, result) for kind, result in (("qwen3_moe", REFUSED), ("gemma3_text", REFUSED), ("qwen3_5", SAME), ("qwen3_5_moe", SAME))],
    "attn_output_gate": [("qwen3_5", {"attn_output_gate": False}, REFUSED), ("qwen3_5_moe", {"attn_output_gate": True}, SAME)],
    "query_pre_attn_scalar": [("gemma3_text", {"query_pre_attn_scalar": MISSING}, SAME)],
    "attn_logit_softcapping": [("gemma3_text", {"attn_logit_softcapping": 3.0}, REFUSED)],
    "final_logit_softcapping": [("gemma3_text", {"final_logit_softcapping": 5.0}, REFUSED)],
    "rope_theta": [(kind, {"rope_theta": 77.0}, SAME) for kind in OWN if kind != "gpt_neox"] + [("qwen3_5", {"rope_theta": 7.0, "rope_parameters": {"rope_theta": 9.0}}, SAME), ("gemma3_text", {"rope_parameters": {"full_attention": FULL_ROPE}}, SAME)],
    "rope_local_base_freq": [("gemma3_text", {"rope_local_base_freq": 77.0}, SAME)],
    "partial_rotary_factor": [
        *[(kind, {"partial_rotary_factor": 0.5}, REFUSED) for kind in ("qwen3_moe", "exaone4", "gemma3_text")],
        ("qwen3_5", {"partial_rotary_factor": 0.5}, SAME), ("qwen3_5_moe", {"rope_parameters": {"partial_rotary_factor": 1.0}}, SAME), ("qwen3_5", {"partial_rotary_factor": 0.2}, REFUSED),
        ("gemma3_text", {"rope_parameters": {"full_attention": LINEAR | {"partial_rotary_factor": 0.5}}}, REFUSED),
    ],
    "rope_parameters": [("qwen3_5", {"rope_parameters": LINEAR}, REFUSED), ("exaone4", {"rope_parameters": LINEAR}, SAME), ("gemma3_text", {"rope_parameters": {"full_attention": FULL_ROPE, "sliding_attention": LOCAL_ROPE}}, SAME)],
    "rope_parameters.mrope_section": [("qwen3_5", {"rope_parameters": {"type": "mrope", "mrope_section": [1, 1, 0], "rope_theta": 77.0}}, SAME)],
    "rope_parameters.mrope_interleaved": [("qwen3_5_moe", {"rope_parameters": {"mrope_interleaved": True, "rope_theta": 77.0}}, SAME)],
    "rope_parameters.full_attention": [("gemma3_text", {"rope_parameters": {"full_attention": YARN | {"rope_theta": 55.0}}}, SAME)],
    "rope_parameters.sliding_attention": [("gemma3_text", {"rope_parameters": {"sliding_attention": LOCAL_ROPE}}, SAME), ("gemma3_text", {"rope_parameters": {"sliding_attention": LINEAR}}, REFUSED)],
    "rope_scaling": [("qwen3_moe", {"rope_scaling": LINEAR}, REFUSED), ("qwen3_moe", {"rope_scaling": {"rope_type": "default", "rope_theta": 55.0}}, SAME), ("qwen3_5", {"rope_scaling": LINEAR}, REFUSED), ("qwen3_5", {"rope_scaling": {"rope_type": "default", "rope_theta": 5.0}, "rope_parameters": {"rope_theta": 9.0}}, SAME), ("exaone4", {"rope_scaling": LLAMA3}, SAME), ("gemma3_text", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, SAME)],
    "sliding_window": [("qwen3_moe", {"sliding_window": 8}, SAME), ("exaone4", {"sliding_window": None, "sliding_window_pattern": None}, SAME), ("exaone4", {"sliding_window": MISSING}, SAME), ("exaone4", {"layer_types": ["full_attention"] * 4}, REFUSED), ("gemma3_text", {"sliding_window": MISSING}, SAME)],
    "sliding_window_pattern": [("exaone4", {"sliding_window_pattern": value}, SAME) for value in (MISSING, 2, "LG")] + [("gemma3_text", {"sliding_window_pattern": 3}, SAME), ("gemma3_text", {"sliding_window_pattern": MISSING}, REFUSED)],
    "use_sliding_window": [("qwen3_moe", {"use_sliding_window": True}, REFUSED)],
    "max_window_layers": [("qwen3_moe", {"max_window_layers": 1}, SAME)],
    "layer_types": [
        ("qwen3_5", {"num_hidden_layers": 3, "layer_types": ["linear_attention", "linear_attention", "full_attention"]}, SAME), ("qwen3_5", {"layer_types": ["full_attention", "linear_attention"]}, REFUSED),
        ("exaone4", {"layer_types": ["full_attention", "sliding_attention"] * 2}, SAME), ("exaone4", {"layer_types": ["sliding_attention"] * 4}, REFUSED),
        ("gemma3_text", {"layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]}, SAME), ("gemma3_text", {"layer_types": ["full_attention", "sliding_attention"] * 2}, REFUSED),
    ],
    "full_attention_interval": [("qwen3_5", {"full_attention_interval": 1}, REFUSED), ("qwen3_5", {"full_attention_interval": 3}, REFUSED), ("qwen3_5", {"num_hidden_layers": 4, "full_attention_interval": MISSING}, SAME)],
    "use_bidirectional_attention": [("gemma3_text", {"use_bidirectional_attention": True}, REFUSED)],
    "is_causal": [(kind, {"is_causal": False}, REFUSED) for kind in OWN],
    "quantization_config": [(kind, {"quantization_config": {"quant_method": "fp8"}}, REFUSED) for kind in OWN],
    **{name: [("qwen3_5", {"linear_num_value_heads": 16, name: MISSING}, SAME), ("qwen3_5", {name: 0}, REFUSED)] for name in (*DELTA, "linear_conv_kernel_dim") if name.startswith("linear_")},
    "mamba_ssm_dtype": [("qwen3_5", {"mamba_ssm_dtype": "bfloat16"}, SAME)],
    "num_experts": [("qwen3_moe", {"num_experts": MISSING}, REFUSED), ("qwen3_5_moe", {"num_experts": 5}, SAME), ("qwen3_5", {"num_experts": 4}, SAME)],
    "num_local_experts": [("qwen3_moe", {"num_experts": MISSING, "num_local_experts": 4}, SAME)],
    "num_experts_per_tok": [("qwen3_moe", {"num_experts_per_tok": 5}, REFUSED), ("qwen3_5_moe", {"num_experts": 9, "num_experts_per_tok": MISSING}, SAME)],
    "moe_intermediate_size": [("qwen3_moe", {"moe_intermediate_size": MISSING}, SAME)],
    "norm_topk_prob": [("qwen3_moe", {"norm_topk_prob": value}, SAME) for value in (False, MISSING)] + [("qwen3_5_moe", {"norm_topk_prob": False}, REFUSED)],
    "decoder_sparse_step": [("qwen3_moe", {"decoder_sparse_step": 2}, SAME), ("qwen3_5_moe", {"decoder_sparse_step": 2}, SAME)],
    "mlp_only_layers": [("qwen3_moe", {"mlp_only_layers": value}, SAME) for value in ([0, 2], MISSING)],
    "shared_expert_intermediate_size": [("qwen3_5_moe", {"shared_expert_intermediate_size": MISSING}, SAME), ("qwen3_5_moe", {"shared_expert_intermediate_size": 0}, REFUSED)],
    "output_router_logits": [("qwen3_moe", {"output_router_logits": True}, SAME)],
    "router_aux_loss_coef": [("qwen3_moe", {"router_aux_loss_coef": 0.5}, SAME)],
}  # fmt: skip
for name, probes in MORE.items():
    PROBES[name] = PROBES.get(name, []) + probes


def write(folder: Path, kind: str, changes: dict[str, Any]) -> Path:
    config = BASE | {"model_type": kind} | OWN.get(kind, {}) | changes
    config = {name: value for name, value in config.items() if value is not MISSING}
    write_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    shapes: dict[str, tuple[int, ...]] = {}
    try:
        complete = complete_configuration(config, "here")
        tied = config.get("tie_word_embeddings", False)
        shapes = expected_tensors(complete | {"tie_word_embeddings": bool(tied)})
    except InputError:
        shapes = {"model.embed_tokens.weight": (32, 32)}  # refused before any weight is looked at
    rng = np.random.default_rng(0)
    save_file(
        {name: rng.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()},
        folder / "model.safetensors",
    )
    return folder


@pytest.mark.parametrize(
    ("kind", "changes", "outcome"),
    [pytest.param(*probe, id=f"{name}-{at}") for name, probes in PROBES.items() for at, probe in enumerate(probes)],
)
def test_what_the_table_says_of_us_holds(tmp_path: Path, kind: str, changes: dict[str, Any], outcome: str) -> None:
    source = write(tmp_path / "source", kind, changes)
    if outcome == REFUSED:
        with pytest.raises(InputError):
            convert(source, tmp_path / "out", check=True)
        return
    found = convert(source, tmp_path / "out", check=True)
    assert found.verification is not None
    assert found.verification.readings["config.json"] < 1e-4
    assert not any(note.startswith("fields not used") for note in found.notes)
    # Reading what was written changes nothing any more.
    again = open_checkpoint(tmp_path / "out")
    assert complete_configuration(again.config, "there") == again.config


def test_every_row_of_the_table_has_a_probe() -> None:
    assert PROBES.keys() == {key.name for key in KEYS}
    for key in KEYS:
        assert any(kind in key.of for kind, _, _ in PROBES[key.name]), key


def test_no_row_of_the_table_stands_in_the_way_of_another() -> None:
    pairs = [(key.name, kind) for key in KEYS for kind in key.of]
    assert len(pairs) == len(set(pairs))


def test_the_table_is_about_every_architecture() -> None:
    assert set(KINDS) == ARCHITECTURES.keys()


@pytest.mark.parametrize(
    ("scaling", "message"), [({"beta_fast": 8.0}, "beta_fast 8"), ({"beta_slow": 2}, "beta_slow 2")]
)
def test_what_the_table_says_of_gguf_holds(tmp_path: Path, scaling: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        convert(write(tmp_path / "a", "qwen2", scaled(**scaling)), tmp_path / "a.gguf", target=Target(to="gguf"))
    source = write(tmp_path / "b", "qwen2", scaled(attention_factor=0.7, original_max_position_embeddings=16))
    convert(source, tmp_path / "b.gguf", target=Target(to="gguf"), check=True)


# Where mlx-lm, or transformers, has a model under another name than ours.
THEIR_MLX = {"mistral": "llama"}
THEIR_TYPES = {"qwen3_5": "qwen3_5_text", "qwen3_5_moe": "qwen3_5_moe_text"}
# Of mlx-lm's one class for both models, what the dense one does not read.
ONLY_WITH_EXPERTS = {
    "num_experts_per_tok", "decoder_sparse_step", "shared_expert_intermediate_size", "moe_intermediate_size",
    "norm_topk_prob",
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_that_mlx_lm_reads_is_in_the_table(kind: str) -> None:
    module = importlib.import_module(f"mlx_lm.models.{THEIR_MLX.get(kind, kind)}")
    arguments = getattr(module, "TextModelArgs", module.ModelArgs)
    read = {field.name for field in fields(arguments)} - {"model_type"}
    if kind == "qwen3_5":
        read -= ONLY_WITH_EXPERTS
    if kind == "qwen3_5_moe":
        # mlx-lm's module for it only wraps the dense model's.
        dense = importlib.import_module("mlx_lm.models.qwen3_5").TextModelArgs
        read = {field.name for field in fields(dense)} - {"model_type"}
    assert read <= {key.name for key in KEYS if kind in key.of}


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_that_transformers_reads_is_known(kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = type(transformers.AutoConfig.for_model(THEIR_TYPES.get(kind, kind)))
    # What all of its classes have says how a model is used, not what it computes.
    common = {field.name for field in fields(transformers.PreTrainedConfig)}
    read = {field.name for field in fields(theirs) if not field.name.startswith("_")} - {"transformers_weights"}
    assert set(unused_fields(dict.fromkeys(read, 1) | {"model_type": kind})) <= common
    assert unused_fields({"model_type": kind, "logit_scale": 0.5}) == ("logit_scale",)


def test_fields_that_nothing_reads_are_named(tmp_path: Path) -> None:
    raw = BASE | {
        "model_type": "llama",
        "logits_scaling": 8.0,
        "use_mrope": False,
        "rope_scaling": YARN | {"finetuned": True},
    }
    assert unused_fields(raw) == ("logits_scaling", "rope_scaling.finetuned")
    source = write(tmp_path / "source", "llama", {"logits_scaling": 8.0})
    assert convert(source, tmp_path / "out").notes == ("fields not used: logits_scaling",)


@pytest.mark.parametrize(
    ("kind", "changes", "default"),
    [
        ("qwen3_moe", {"norm_topk_prob": MISSING}, (qwen3_moe._DEFAULTS, "norm_topk_prob", True)),
        ("qwen3_5_moe", {"num_experts": 9, "num_experts_per_tok": MISSING}, (ARCHITECTURES["qwen3_5_moe"].defaults, "num_experts_per_tok", 1)),
        ("qwen3_5", {}, (vars(qwen3_5), "_ROTARY_SHARE", 1.0)),
        ("exaone4", {}, (vars(rope), "DEFAULT_THETA", 99.0)),
        ("gemma3_text", {"query_pre_attn_scalar": MISSING}, (gemma3_text._DEFAULTS, "query_pre_attn_scalar", 8)),
    ],
)  # fmt: skip
def test_a_default_that_our_configuration_gets_wrong_is_found_by_the_other_reading(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    changes: dict[str, Any],
    default: tuple[dict[str, Any], str, object],
) -> None:
    place, name, wrong = default
    source = write(tmp_path / "source", kind, changes)
    monkeypatch.setitem(place, name, wrong)
    with pytest.raises(LoopaiError, match=r"what its config.json means"):
        convert(source, tmp_path / "out", check=True)
    assert not (tmp_path / "out").exists()
