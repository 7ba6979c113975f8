"""What the tensors of each supported architecture are called, and how large each must be.

Hugging Face and mlx-lm share their names for these architectures; GGUF has its own. A checkpoint is compared with
the full list of names and shapes that its configuration implies, so a wrong, missing or surplus tensor is found
before anything is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mlx_loopai.errors import InputError, all_problems

HEAD = "lm_head.weight"
EMBEDDING = "model.embed_tokens.weight"


@dataclass(frozen=True)
class Architecture:
    """A decoder that both mlx-lm and the readers know. `class_name` is transformers' name for it."""

    model_type: str
    class_name: str
    qkv_bias: bool
    qk_norm: bool


ARCHITECTURES = {
    architecture.model_type: architecture
    for architecture in (
        Architecture("qwen2", "Qwen2ForCausalLM", qkv_bias=True, qk_norm=False),
        Architecture("qwen3", "Qwen3ForCausalLM", qkv_bias=False, qk_norm=True),
    )
}

_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOP_BACK = {hf: gguf for gguf, hf in _TOP.items()}
_BLOCK_BACK = {hf: gguf for gguf, hf in _BLOCK.items()}

# Values computed from the configuration that old exports stored among the weights.
_BUFFER = re.compile(r"(rotary_emb\.inv_freq|\.attn\.masked_bias|\.attn\.bias)$")


def architecture_of(model_type: object, where: str) -> Architecture:
    """The architecture called `model_type` (config.json's `model_type`, GGUF's `general.architecture`).

    Raises:
        InputError: nobody here supports it.
    """
    if isinstance(model_type, str) and model_type in ARCHITECTURES:
        return ARCHITECTURES[model_type]
    raise InputError(
        f"{where}: the architecture {model_type!r} is not supported; supported are {', '.join(sorted(ARCHITECTURES))}"
    )


def hf_name(gguf_name: str) -> str | None:
    """`blk.3.attn_q.bias` -> `model.layers.3.self_attn.q_proj.bias`; None for a name that has no counterpart."""
    stem, _, kind = gguf_name.rpartition(".")
    if stem in _TOP:
        return f"{_TOP[stem]}.{kind}"
    match = re.fullmatch(r"blk\.(\d{1,6})\.(\w+)", stem)
    if match and match[2] in _BLOCK:
        return f"model.layers.{match[1]}.{_BLOCK[match[2]]}.{kind}"
    return None


def gguf_name(name: str) -> str | None:
    """The inverse of `hf_name`; None for a name that GGUF does not have."""
    stem, _, kind = name.rpartition(".")
    if stem in _TOP_BACK:
        return f"{_TOP_BACK[stem]}.{kind}"
    match = re.fullmatch(r"model\.layers\.(\d{1,6})\.([\w.]+)", stem)
    if match and match[2] in _BLOCK_BACK:
        return f"blk.{match[1]}.{_BLOCK_BACK[match[2]]}.{kind}"
    return None


def is_buffer(name: str) -> bool:
    """Whether `name` is a stored constant that every loader computes itself."""
    return _BUFFER.search(name) is not None


def _block_shapes(config: Mapping[str, Any], architecture: Architecture) -> dict[str, tuple[int, ...]]:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    head_dim = config.get("head_dim") or hidden // config["num_attention_heads"]
    queries = config["num_attention_heads"] * head_dim
    keys = config["num_key_value_heads"] * head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (hidden,),
        "self_attn.q_proj.weight": (queries, hidden),
        "self_attn.k_proj.weight": (keys, hidden),
        "self_attn.v_proj.weight": (keys, hidden),
        "self_attn.o_proj.weight": (hidden, queries),
        "post_attention_layernorm.weight": (hidden,),
        "mlp.gate_proj.weight": (inner, hidden),
        "mlp.up_proj.weight": (inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
    }
    if architecture.qkv_bias:
        shapes |= {
            f"self_attn.{part}_proj.bias": (size,) for part, size in zip("qkv", (queries, keys, keys), strict=True)
        }
    if architecture.qk_norm:
        shapes |= {"self_attn.q_norm.weight": (head_dim,), "self_attn.k_norm.weight": (head_dim,)}
    return shapes


def expected_tensors(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a model with this (complete) configuration has, in model order."""
    architecture = ARCHITECTURES[config["model_type"]]
    table = (config["vocab_size"], config["hidden_size"])
    expected: dict[str, tuple[int, ...]] = {EMBEDDING: table}
    block = _block_shapes(config, architecture)
    for layer in range(config["num_hidden_layers"]):
        expected |= {f"model.layers.{layer}.{name}": shape for name, shape in block.items()}
    expected["model.norm.weight"] = (config["hidden_size"],)
    if not config["tie_word_embeddings"]:
        expected[HEAD] = table
    return expected


def check_tensors(found: Mapping[str, tuple[int, ...]], config: Mapping[str, Any], where: str) -> None:
    """Compare the tensors of a checkpoint with what its configuration implies.

    Raises:
        InputError: a tensor is missing, surplus or of another shape; all of them are named at once.
    """
    layers = config["num_hidden_layers"]
    # A configuration that lies about its depth must not make us list a billion names.
    if layers > len(found):
        raise InputError(
            f"{where}: the configuration says {layers} layers but there are only {len(found)} tensors;"
            " the file is incomplete or the configuration belongs to another model"
        )
    expected = expected_tensors(config)
    problems = [f"{name} is missing" for name in _sorted(expected.keys() - found.keys())]
    problems += [
        f"{name[:120]!r} is not a part of {config['model_type']}" for name in _sorted(found.keys() - expected.keys())
    ]
    problems += [
        f"{name} has the shape {list(found[name])} where the configuration needs {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    if problems:
        raise InputError(f"{where}: tensors and configuration disagree: {all_problems(problems, limit=4)}")


def _sorted(names: Iterable[str]) -> list[str]:
    """Names with their numbers in numeric order, so that layer 2 comes before layer 10."""
    return sorted(names, key=lambda name: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)])
