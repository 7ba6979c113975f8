"""Random configurations: what convert makes of each computes what transformers computes, or convert refuses it.

MLX_LOOPAI_CONFIGURATIONS sets how many are tried; `make test-parity` tries 500.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import mlx_loopai  # noqa: F401

# isort: split
import mlx.core as mx
import mlx_lm.utils
import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from converters.convert import convert
from mlx_loopai.errors import InputError
from mlx_loopai.models.load import load_model
from tests.tiny_files import write_tokenizer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.parity

EXAMPLES = int(os.environ.get("MLX_LOOPAI_CONFIGURATIONS", "15"))
VOCAB = 64
# Longer than any window and any context below, so that every rope regime is reached.
TOKENS = np.random.default_rng(1).integers(0, VOCAB, (1, 72))
# A share of the largest logit: float32 arithmetic in another order. Linear attention is divided by its own length, which
# may be next to nothing.
CLOSE, CLOSE_LINEAR = 2e-4, 1e-3

FACTORS = st.sampled_from([0.5, 1.0, 2.0, 4, 8.0])
ORIGINAL = st.sampled_from([{}, {"original_max_position_embeddings": 16}, {"original_max_position_embeddings": 40}])


def optional(**values: list[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Each key with one of its values, or without."""
    return st.fixed_dictionaries({}, optional={key: st.sampled_from(found) for key, found in values.items()})


@st.composite
def scalings(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(["default", "linear", "dynamic", "llama3", "yarn", "longrope"]))
    found: dict[str, Any] = {draw(st.sampled_from(["rope_type", "type"])): kind}
    if kind == "default":
        return found
    found["factor"] = draw(FACTORS)
    if kind == "llama3":
        found |= {"low_freq_factor": draw(st.sampled_from([1.0, 2.0])), "high_freq_factor": 4.0} | draw(ORIGINAL)
    if kind == "yarn":
        found |= draw(ORIGINAL) | draw(
            optional(
                attention_factor=[None, 0.7, 1.0, 1.3],
                beta_fast=[None, 0, 8, 32.0],
                beta_slow=[None, 2, 1.0],
                mscale=[0.0, 0.7, 1.0],
                mscale_all_dim=[0.0, 0.5, 1.0],
                truncate=[True, False],
            )
        )
    if kind == "longrope":
        found |= {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "original_max_position_embeddings": 16}
    return found


EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LINEAR: dict[str, Any] = {
    "full_attention_interval": 2,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
# What the newer architectures need beside the sizes, and what one may find in their files.
NEWER: dict[str, tuple[dict[str, Any], dict[str, list[Any]]]] = {
    "qwen3_moe": (
        EXPERTS,
        {"norm_topk_prob": [True, False], "mlp_only_layers": [[0]], "decoder_sparse_step": [1, 2]},
    ),
    "qwen3_5_text": (
        LINEAR,
        {
            "attn_output_gate": [True, True, False],
            "num_experts": [4],
            "layer_types": [["linear_attention", "full_attention"]],
        },
    ),
    "qwen3_5_moe_text": (
        LINEAR | EXPERTS | {"shared_expert_intermediate_size": 24},
        {"norm_topk_prob": [True, True, False], "decoder_sparse_step": [2]},
    ),
    "exaone4": (
        {},
        {
            "sliding_window_pattern": [2, "LG", "GL", None],
            "layer_types": [["full_attention"] * 2, ["sliding_attention", "full_attention"]],
        },
    ),
    "gemma3_text": (
        {"hidden_size": 64},  # whose root is the same in bfloat16
        {
            "sliding_window_pattern": [1, 2, 2],
            "query_pre_attn_scalar": [8, 24],
            "rope_local_base_freq": [77.0],
            "hidden_activation": ["gelu_pytorch_tanh"] * 4 + ["silu"],
            "final_logit_softcapping": [None] * 4 + [5.0],
            "layer_types": [["full_attention"] * 2, ["sliding_attention", "full_attention"]],
        },
    ),
}


@st.composite
def newer(draw: st.DrawFn) -> dict[str, Any]:
    """The same as `configurations` of the newer architectures."""
    kind = draw(st.sampled_from(sorted(NEWER)))
    needed, found = NEWER[kind]
    heads, kv_heads = draw(st.sampled_from([(4, 2), (4, 4), (2, 1)]))
    config: dict[str, Any] = {
        "model_type": kind,
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": draw(st.sampled_from([24, 48, 128])),
    }
    config |= needed | draw(optional(**found))
    config |= draw(optional(tie_word_embeddings=[True, False], head_dim=[8, 16], rope_theta=[500.0, 1e6]))
    config |= draw(
        optional(attention_bias=[True, False], sliding_window=[None, 8, 200], use_sliding_window=[False, True])
    )
    config |= draw(optional(partial_rotary_factor=[1.0, 1.0, 0.5], torch_dtype=["float32"]))
    place = draw(st.sampled_from(["none", "rope_scaling", "rope_parameters"]))
    if place != "none":
        scaling = draw(scalings()) | draw(optional(rope_theta=[300.0, 5000.0]))
        nested = kind == "gemma3_text" and place == "rope_parameters"
        config[place] = {draw(st.sampled_from(["full_attention", "sliding_attention"])): scaling} if nested else scaling
    return config


@st.composite
def configurations(draw: st.DrawFn) -> dict[str, Any]:
    """config.json of a tiny model, as someone could have written it."""
    kind = draw(st.sampled_from(["qwen2", "qwen3", "llama", "mistral", "gpt_neox"]))
    heads, kv_heads = draw(st.sampled_from([(4, 2), (4, 4), (2, 1)]))
    config: dict[str, Any] = {
        "model_type": kind,
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 128 if kind == "gpt_neox" else 48,
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
        "max_position_embeddings": draw(st.sampled_from([24, 48, 128])),
        "hidden_act": draw(st.sampled_from(["silu"] * 12 + ["gelu"])),
    }
    config |= draw(
        optional(tie_word_embeddings=[True, False], torch_dtype=["float32"], layer_types=[["full_attention"] * 2])
    )
    if kind == "gpt_neox":
        config |= {
            "layer_norm_eps": 1e-5,
            "hidden_act": draw(st.sampled_from(["gelu_new", "gelu_pytorch_tanh"] * 3 + ["relu"])),
        }
        config |= draw(
            optional(attention_bias=[True, False], use_parallel_residual=[True, False], rotary_pct=[0.5, 1.0])
        )
        config |= draw(optional(rotary_emb_base=[500.0], rope_theta=[77.0]))
    else:
        config |= {"rms_norm_eps": 1e-5, "num_key_value_heads": kv_heads}
        config |= draw(optional(head_dim=[None, 8, 16], rope_theta=[500.0, 1e6], attention_bias=[True, False]))
        config |= draw(
            optional(mlp_bias=[True, False], sliding_window=[None, 8, 200], use_sliding_window=[True, False])
        )
        config |= draw(optional(max_window_layers=[0, 1, 2], partial_rotary_factor=[1.0] * 5 + [0.5]))
        config |= draw(optional(original_max_position_embeddings=[20], rope_traditional=[False] * 5 + [True]))
    place = draw(
        st.sampled_from(["none", "rope_scaling", "rope_parameters", "rope_scaling", "rope_parameters", "both"])
    )
    for key in ("rope_scaling", "rope_parameters"):
        if place in (key, "both"):
            config[key] = draw(scalings()) | draw(
                optional(rope_theta=[300.0, 5000.0], partial_rotary_factor=[1.0] * 3 + [0.5])
            )
    return config


def parameters(config: dict[str, Any], seed: int) -> dict[str, np.ndarray]:
    """Random weights of the model that transformers makes of `config`, under the names that its files have."""
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**config))
    rng = np.random.default_rng(seed)
    tied = bool(model.config.tie_word_embeddings)
    state = {}
    for name, tensor in model.state_dict().items():
        name = {"lm_head.weight": "embed_out.weight"}.get(name, name) if config["model_type"] == "gpt_neox" else name
        if not (tied and name in ("lm_head.weight", "embed_out.weight")):
            state[name] = (rng.normal(0, 0.2, tensor.shape) + ("norm" in name)).astype(np.float32)
    return state


def own_head(state: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    name = "embed_out.weight" if config["model_type"] == "gpt_neox" else "lm_head.weight"
    state.setdefault(name, np.random.default_rng(9).normal(0, 0.2, (VOCAB, config["hidden_size"])).astype(np.float32))


def their_logits(folder: Path) -> np.ndarray:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        return model.eval()(torch.tensor(TOKENS)).logits.numpy()


def our_logits(folder: Path) -> np.ndarray:
    model, _ = mlx_lm.utils.load_model(folder)
    return np.array(model(mx.array(TOKENS)))


def scaling_of(folder: Path) -> str:
    return str((json.loads((folder / "config.json").read_text()).get("rope_scaling") or {}).get("rope_type"))


@settings(max_examples=EXAMPLES, deadline=None, derandomize=EXAMPLES < 100, suppress_health_check=list(HealthCheck))
@given(config=st.one_of(configurations(), newer()), with_head=st.booleans(), seed=st.integers(0, 5))
def test_a_configuration_computes_the_same_or_is_refused(config: dict[str, Any], with_head: bool, seed: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = write_tokenizer(Path(place) / "source")
        try:
            state = parameters(config, seed)
        except Exception as error:  # what transformers makes of nonsense is its own affair
            event(f"transformers refuses: {type(error).__name__}")
            return
        if with_head:
            own_head(state, config)
        (folder / "config.json").write_text(json.dumps(config))
        save_file(state, folder / "model.safetensors", {"format": "pt"})
        try:
            verified = convert(folder, Path(place) / "out", dtype="fp32", check=True).verification
        except InputError as error:
            event(f"refused: {str(error).split(': ', 1)[1][:60]}")
            return
        assert verified is not None
        event(f"transformers compared by --verify: {'transformers' in verified.readings}")
        event(f"converted: {config['model_type']}, {scaling_of(Path(place) / 'out')}")
        try:
            theirs = their_logits(folder)
        except Exception as error:
            event(f"transformers fails: {type(error).__name__}")
            return
        # A mistral's window closes its context: there is nothing to compare beyond it.
        length = json.loads((Path(place) / "out/config.json").read_text())["max_position_embeddings"]
        closed = config["model_type"] == "mistral" and length < config["max_position_embeddings"]
        rows = slice(0, length if closed else None)
        ours = our_logits(Path(place) / "out")[:, rows]
        bound = (CLOSE_LINEAR if "qwen3_5" in config["model_type"] else CLOSE) * np.abs(theirs).max()
        assert np.abs(ours - theirs[:, rows]).max() <= bound
        # Opened as it is, without a conversion.
        try:
            opened = load_model(str(folder)).model
        except InputError as error:
            event(f"not opened: {str(error).split(': ', 1)[1][:60]}")
            return
        assert np.abs(np.array(opened(mx.array(TOKENS)))[:, rows] - theirs[:, rows]).max() <= bound
