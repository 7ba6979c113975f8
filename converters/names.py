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
    """A decoder that mlx-lm and the readers know. `class_name` is transformers' name for it, `gguf` llama.cpp's."""

    model_type: str
    class_name: str
    gguf: str
    qkv_bias: bool = False
    qk_norm: bool = False
    embedding: str = EMBEDDING
    head: str = HEAD


ARCHITECTURES = {
    architecture.model_type: architecture
    for architecture in (
        Architecture("qwen2", "Qwen2ForCausalLM", "qwen2", qkv_bias=True),
        Architecture("qwen3", "Qwen3ForCausalLM", "qwen3", qk_norm=True),
        Architecture("llama", "LlamaForCausalLM", "llama"),
        # llama.cpp calls it llama as well; without its window it is the same model.
        Architecture("mistral", "MistralForCausalLM", "llama"),
        Architecture(
            "gpt_neox",
            "GPTNeoXForCausalLM",
            "gptneox",
            embedding="gpt_neox.embed_in.weight",
            head="embed_out.weight",
        ),
    )
}
_BY_GGUF_NAME = {"gptneox": "gpt_neox"} | {name: name for name in ("qwen2", "qwen3", "llama")}

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
_NEOX_TOP = {"token_embd": "gpt_neox.embed_in", "output_norm": "gpt_neox.final_layer_norm", "output": "embed_out"}
_NEOX_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_qkv": "attention.query_key_value",
    "attn_output": "attention.dense",
    "ffn_norm": "post_attention_layernorm",
    "ffn_up": "mlp.dense_h_to_4h",
    "ffn_down": "mlp.dense_4h_to_h",
}
_TOP_BACK = {hf: gguf for gguf, hf in (*_TOP.items(), *_NEOX_TOP.items())}
_BLOCK_BACK = {hf: gguf for gguf, hf in (*_BLOCK.items(), *_NEOX_BLOCK.items())}

# Values computed from the configuration that old exports stored among the weights.
_BUFFER = re.compile(
    r"(rotary_emb\.inv_freq|\.(attn|attention)\.(masked_)?bias|embeddings\.(position|token_type)_ids)$"
)


def architecture_of(model_type: object, where: str) -> Architecture:
    """The architecture that config.json calls `model_type`.

    Raises:
        InputError: nobody here supports it.
    """
    if isinstance(model_type, str) and model_type in ARCHITECTURES:
        return ARCHITECTURES[model_type]
    raise _not_supported(model_type, ARCHITECTURES, where)


def gguf_architecture(name: object, where: str) -> Architecture:
    """The architecture that GGUF's `general.architecture` calls `name`.

    Raises:
        InputError: nobody here supports it.
    """
    if isinstance(name, str) and name in _BY_GGUF_NAME:
        return ARCHITECTURES[_BY_GGUF_NAME[name]]
    raise _not_supported(name, _BY_GGUF_NAME, where)


def _not_supported(name: object, known: Iterable[str], where: str) -> InputError:
    shown = repr(name)[:80]
    return InputError(f"{where}: the architecture {shown} is not supported; supported are {', '.join(sorted(known))}")


def hf_name(gguf_name: str, model_type: str = "qwen2") -> str | None:
    """`blk.3.attn_q.bias` -> `model.layers.3.self_attn.q_proj.bias`; None for a name that has no counterpart."""
    neox = model_type == "gpt_neox"
    top, block, prefix = (_NEOX_TOP, _NEOX_BLOCK, "gpt_neox") if neox else (_TOP, _BLOCK, "model")
    stem, _, kind = gguf_name.rpartition(".")
    if stem in top:
        return f"{top[stem]}.{kind}"
    match = re.fullmatch(r"blk\.(\d{1,6})\.(\w+)", stem, re.ASCII)
    if match and match[2] in block:
        return f"{prefix}.layers.{match[1]}.{block[match[2]]}.{kind}"
    return None


def gguf_name(name: str) -> str | None:
    """The inverse of `hf_name`; None for a name that GGUF does not have."""
    stem, _, kind = name.rpartition(".")
    if stem in _TOP_BACK:
        return f"{_TOP_BACK[stem]}.{kind}"
    match = re.fullmatch(r"(?:model|gpt_neox)\.layers\.(\d{1,6})\.([\w.]+)", stem)
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
    if config.get("attention_bias") and config["model_type"] == "llama":
        shapes |= {f"self_attn.{part}_proj.bias": (shapes[f"self_attn.{part}_proj.weight"][0],) for part in "qkvo"}
    if config.get("mlp_bias") and config["model_type"] == "llama":
        shapes |= {f"mlp.{part}_proj.bias": (shapes[f"mlp.{part}_proj.weight"][0],) for part in ("gate", "up", "down")}
    if architecture.qkv_bias:
        shapes |= {
            f"self_attn.{part}_proj.bias": (size,) for part, size in zip("qkv", (queries, keys, keys), strict=True)
        }
    if architecture.qk_norm:
        shapes |= {"self_attn.q_norm.weight": (head_dim,), "self_attn.k_norm.weight": (head_dim,)}
    return shapes


def _neox_tensors(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    table = (config["vocab_size"], hidden)
    block = {
        "attention.query_key_value": (3 * hidden, hidden),
        "attention.dense": (hidden, hidden),
        "mlp.dense_h_to_4h": (inner, hidden),
        "mlp.dense_4h_to_h": (hidden, inner),
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
    }
    expected: dict[str, tuple[int, ...]] = {"gpt_neox.embed_in.weight": table}
    for layer in range(config["num_hidden_layers"]):
        for name, shape in block.items():
            expected[f"gpt_neox.layers.{layer}.{name}.weight"] = shape
            expected[f"gpt_neox.layers.{layer}.{name}.bias"] = shape[:1]
    norm: dict[str, tuple[int, ...]] = {f"gpt_neox.final_layer_norm.{kind}": (hidden,) for kind in ("weight", "bias")}
    return expected | norm | {"embed_out.weight": table}


def expected_tensors(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a model with this (complete) configuration has, in model order."""
    architecture = ARCHITECTURES[config["model_type"]]
    if architecture.model_type == "gpt_neox":
        return _neox_tensors(config)
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
