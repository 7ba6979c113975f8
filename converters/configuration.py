"""config.json as mlx-lm needs it, from a Hugging Face configuration or from GGUF metadata.

transformers 5 writes the rotary settings under `rope_parameters`, where mlx-lm's qwen2 does not look: it would run
with its default `rope_theta` and give other logits without a word. So the fields that loaders guess are always
written out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from converters.names import architecture_of
from mlx_loopai.errors import InputError, all_problems

_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
)
# What transformers' configuration classes and llama.cpp assume when a file leaves the key out.
_DEFAULT_ROPE_THETA = 10_000.0
_DEFAULT_MAX_POSITIONS = 32_768
_QWEN3_HEAD_DIM = 128
# No dimension of a model comes near this; a larger one is a damaged file.
_MAX_SIZE = 1 << 31


def _check(config: Mapping[str, Any], where: str) -> None:
    names = (
        (*_SIZES, "max_position_embeddings", "head_dim")
        if "head_dim" in config
        else (*_SIZES, "max_position_embeddings")
    )
    problems = []
    for name in names:
        value = config.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < _MAX_SIZE:
            problems.append(f"{name} is {value!r} where a positive whole number is needed")
    for name in ("rms_norm_eps", "rope_theta"):
        value = config.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            problems.append(f"{name} is {value!r} where a positive number is needed")
    if problems:
        raise InputError(f"{where}: {all_problems(problems)}")
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    if heads % kv_heads or ("head_dim" not in config and config["hidden_size"] % heads):
        raise InputError(
            f"{where}: hidden_size {config['hidden_size']}, {heads} heads and {kv_heads} key/value heads do not divide"
        )


def _flat_rope(config: dict[str, Any], where: str) -> None:
    """Move transformers 5's `rope_parameters` to `rope_theta` and `rope_scaling`."""
    nested = config.get("rope_parameters")
    if nested is not None and not isinstance(nested, dict):
        raise InputError(f"{where}: rope_parameters is {nested!r} where an object is needed")
    nested = nested or {}
    if config.get("rope_theta") is None:
        config["rope_theta"] = nested.get("rope_theta", _DEFAULT_ROPE_THETA)
    scaling = {key: value for key, value in nested.items() if key != "rope_theta"}
    if config.get("rope_scaling") is None and scaling.get("rope_type", "default") != "default":
        config["rope_scaling"] = scaling


def from_hugging_face(raw: Mapping[str, Any], has_head: bool, where: str) -> dict[str, Any]:
    """A complete configuration from the content of a config.json. `has_head`: the file holds lm_head.weight.

    Raises:
        InputError: unsupported architecture, quantised weights, or a field that is missing or absurd.
    """
    config = dict(raw)
    architecture = architecture_of(config.get("model_type"), where)
    for key in ("quantization", "quantization_config"):
        if config.get(key):
            raise InputError(
                f"{where}: the weights are already quantised ({key}); give the original fp32, bf16 or fp16 checkpoint"
            )
    if config.get("use_sliding_window"):
        raise InputError(
            f"{where}: use_sliding_window is true, which mlx-lm ignores for {architecture.model_type}, so long texts"
            " would give other results; set it to false if the context stays within the window"
        )
    if config.get("num_key_value_heads") is None:
        config["num_key_value_heads"] = config.get("num_attention_heads")
    if architecture.model_type == "qwen3" and config.get("head_dim") is None:
        config["head_dim"] = _QWEN3_HEAD_DIM
    elif config.get("head_dim", 0) is None:
        del config["head_dim"]
    if config.get("max_position_embeddings") is None:
        config["max_position_embeddings"] = _DEFAULT_MAX_POSITIONS
    tie = config.get("tie_word_embeddings")
    config["tie_word_embeddings"] = (not has_head) if tie is None else bool(tie)
    _flat_rope(config, where)
    _check(config, where)
    if architecture.model_type == "qwen2":
        implied = config["hidden_size"] // config["num_attention_heads"]
        if config.get("head_dim", implied) != implied:
            raise InputError(f"{where}: head_dim {config['head_dim']} is not {implied}, which mlx-lm's qwen2 assumes")
    return config


def _shortest(value: float) -> float:
    """A float32 read from a file as people write it: 9.99999997e-07 -> 1e-06."""
    return float(str(np.float32(value)))


def _gguf_rope_scaling(get: Callable[[str], Any], where: str) -> dict[str, Any] | None:
    kind = get("rope.scaling.type")
    if kind in (None, "none"):
        return None
    factor = get("rope.scaling.factor")
    if kind not in ("linear", "yarn") or not isinstance(factor, float):
        raise InputError(f"{where}: rope scaling {kind!r} with factor {factor!r} is not supported; linear and yarn are")
    scaling: dict[str, Any] = {"rope_type": kind, "type": kind, "factor": _shortest(factor)}
    original = get("rope.scaling.original_context_length")
    if original is not None:
        scaling["original_max_position_embeddings"] = original
    return scaling


def from_gguf(metadata: Mapping[str, Any], vocab_rows: int, tied: bool, where: str) -> dict[str, Any]:
    """A complete configuration from GGUF metadata. `vocab_rows`: rows of the embedding; `tied`: no separate head.

    Raises:
        InputError: unsupported architecture, or a field that is missing or absurd.
    """
    architecture = architecture_of(metadata.get("general.architecture"), where)

    def get(key: str) -> Any:
        return metadata.get(f"{architecture.model_type}.{key}")

    eps, theta = get("attention.layer_norm_rms_epsilon"), get("rope.freq_base")
    heads = get("attention.head_count")
    config: dict[str, Any] = {
        "architectures": [architecture.class_name],
        "model_type": architecture.model_type,
        "hidden_act": "silu",
        "vocab_size": vocab_rows,
        "hidden_size": get("embedding_length"),
        "intermediate_size": get("feed_forward_length"),
        "num_hidden_layers": get("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": heads if get("attention.head_count_kv") is None else get("attention.head_count_kv"),
        "max_position_embeddings": get("context_length") or _DEFAULT_MAX_POSITIONS,
        "rms_norm_eps": _shortest(eps) if isinstance(eps, float) else eps,
        "rope_theta": _shortest(theta) if isinstance(theta, float) else _DEFAULT_ROPE_THETA,
        "tie_word_embeddings": tied,
        "use_sliding_window": False,
    }
    if architecture.qk_norm:
        config["attention_bias"] = False
        config["head_dim"] = get("attention.key_length") or _QWEN3_HEAD_DIM
    scaling = _gguf_rope_scaling(get, where)
    if scaling is not None:
        config["rope_scaling"] = scaling
    for name, key in (("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding")):
        token = metadata.get(f"tokenizer.ggml.{key}_token_id")
        if isinstance(token, int):
            config[name] = token
    _check(config, where)
    return config
