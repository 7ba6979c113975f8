"""config.json as mlx-lm needs it, from a Hugging Face configuration or from GGUF metadata.

transformers 5 writes the rotary settings under `rope_parameters`, where mlx-lm's qwen2 does not look: it would run
with its default `rope_theta` and give other logits without a word. So the fields that loaders guess are always
written out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from converters.names import Architecture, architecture_of, gguf_architecture
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
_NEOX_ROTARY_SHARE = 0.25
_ROPE_TYPES = ("linear", "dynamic", "llama3", "yarn")
# mlx-lm's gpt_neox takes the tanh approximation for all of them: up to 5e-4 an activation.
_NEOX_ACTIVATIONS = ("gelu", "gelu_fast", "gelu_new", "gelu_pytorch_tanh")
# No dimension of a model comes near this; a larger one is a damaged file.
_MAX_SIZE = 1 << 31


def _check(config: Mapping[str, Any], where: str) -> None:
    whole = [*_SIZES, "max_position_embeddings", *(["head_dim"] if "head_dim" in config else [])]
    neox = config["model_type"] == "gpt_neox"
    real = ("layer_norm_eps", "rotary_emb_base", "rotary_pct") if neox else ("rms_norm_eps", "rope_theta")
    problems = []
    for name in whole:
        value = config.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < _MAX_SIZE:
            problems.append(f"{name} is {repr(value)[:40]} where a positive whole number is needed")
    for name in real:
        value = config.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            problems.append(f"{name} is {repr(value)[:40]} where a positive number is needed")
    if problems:
        raise InputError(f"{where}: {all_problems(problems)}")
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    if heads % kv_heads or ("head_dim" not in config and config["hidden_size"] % heads):
        raise InputError(
            f"{where}: hidden_size {config['hidden_size']}, {heads} heads and {kv_heads} key/value heads do not divide"
        )
    _check_assumptions(config, where)


def _check_assumptions(config: Mapping[str, Any], where: str) -> None:
    """Refuse what mlx-lm's model of this architecture computes otherwise without a word."""
    kind, hidden, heads = config["model_type"], config["hidden_size"], config["num_attention_heads"]
    if kind in ("qwen2", "gpt_neox") and config.get("head_dim", hidden // heads) != hidden // heads:
        raise InputError(f"{where}: head_dim {config['head_dim']} is not {hidden // heads}, which mlx-lm assumes")
    if kind == "gpt_neox" and config["intermediate_size"] != 4 * hidden:
        raise InputError(f"{where}: intermediate_size is not 4 * hidden_size, which mlx-lm's gpt_neox assumes")
    activations = _NEOX_ACTIVATIONS if kind == "gpt_neox" else ("silu",)
    if config.get("hidden_act", activations[0]) not in activations:
        raise InputError(
            f"{where}: hidden_act {str(config['hidden_act'])[:40]!r} is not supported; {', '.join(activations)} is"
        )
    scaling = config.get("rope_scaling")
    if scaling is None:
        return
    rope = scaling.get("rope_type", scaling.get("type")) if isinstance(scaling, dict) else scaling
    known = () if kind == "gpt_neox" else _ROPE_TYPES
    factor = scaling.get("factor") if isinstance(scaling, dict) else None
    if rope not in known or isinstance(factor, bool) or not isinstance(factor, int | float) or not factor > 0:
        raise InputError(
            f"{where}: rope_scaling {str(scaling)[:120]} is not supported; {', '.join(_ROPE_TYPES)} with a factor are"
            " (none for gpt_neox)"
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
    """A complete configuration from the content of a config.json. `has_head`: the file holds the head's weight.

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
    if config.get("num_key_value_heads") is None:
        config["num_key_value_heads"] = config.get("num_attention_heads")
    if architecture.model_type == "qwen3" and config.get("head_dim") is None:
        config["head_dim"] = _QWEN3_HEAD_DIM
    elif config.get("head_dim", 0) is None:
        del config["head_dim"]
    if config.get("max_position_embeddings") is None:
        config["max_position_embeddings"] = _DEFAULT_MAX_POSITIONS
    tie = config.get("tie_word_embeddings")
    # mlx-lm's gpt_neox always has a head of its own; the reader gives it the embedding's rows.
    tied = architecture.model_type != "gpt_neox" and ((not has_head) if tie is None else bool(tie))
    config["tie_word_embeddings"] = tied
    if architecture.model_type == "gpt_neox":
        _neox_rope(config, where)
    else:
        _flat_rope(config, where)
    _check(config, where)
    _close_window(config, where)
    return config


def _neox_rope(config: dict[str, Any], where: str) -> None:
    """mlx-lm's gpt_neox wants `rotary_emb_base` and `rotary_pct`, which transformers 5 has under `rope_parameters`."""
    nested = config.get("rope_parameters") or {}
    if not isinstance(nested, dict):
        raise InputError(f"{where}: rope_parameters is {str(nested)[:40]!r} where an object is needed")
    if config.get("rotary_emb_base") is None:
        config["rotary_emb_base"] = nested.get("rope_theta", _DEFAULT_ROPE_THETA)
    if config.get("rotary_pct") is None:
        config["rotary_pct"] = nested.get("partial_rotary_factor", _NEOX_ROTARY_SHARE)
    if nested.get("rope_type", "default") != "default":
        config["rope_scaling"] = nested


def _close_window(config: dict[str, Any], where: str) -> None:
    """mlx-lm attends to everything, so a model with a sliding window is the same only while the text fits into it."""
    if config.get("use_sliding_window"):
        raise InputError(
            f"{where}: use_sliding_window is true, which mlx-lm ignores for {config['model_type']}, so long texts"
            " would give other results; set it to false if the context stays within the window"
        )
    window = config.get("sliding_window")
    if config["model_type"] == "mistral" and isinstance(window, int) and window > 0:
        config["max_position_embeddings"] = min(window, config["max_position_embeddings"])
        config["sliding_window"] = None


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


def from_gguf(
    metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], rope_factors: np.ndarray | None, where: str
) -> dict[str, Any]:
    """A complete configuration from GGUF metadata. `shapes`: the file's tensors by their Hugging Face names.

    Raises:
        InputError: unsupported architecture, or a field that is missing or absurd.
    """
    architecture = gguf_architecture(metadata.get("general.architecture"), where)

    def get(key: str) -> Any:
        return metadata.get(f"{architecture.gguf}.{key}")

    heads = get("attention.head_count")
    config: dict[str, Any] = {
        "architectures": [architecture.class_name],
        "model_type": architecture.model_type,
        "vocab_size": shapes[architecture.embedding][0],
        "hidden_size": get("embedding_length"),
        "intermediate_size": get("feed_forward_length"),
        "num_hidden_layers": get("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": heads if get("attention.head_count_kv") is None else get("attention.head_count_kv"),
        "max_position_embeddings": get("context_length") or _DEFAULT_MAX_POSITIONS,
        "tie_word_embeddings": architecture.head not in shapes,
    }
    own = _neox_gguf if architecture.model_type == "gpt_neox" else _llama_like_gguf
    config |= own(get, config, architecture, shapes, rope_factors, where)
    for name, key in (("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding")):
        token = metadata.get(f"tokenizer.ggml.{key}_token_id")
        if isinstance(token, int):
            config[name] = token
    _check(config, where)
    return config


def _number(value: Any, default: float | None) -> Any:
    return _shortest(value) if isinstance(value, float) else default if value is None else value


def _neox_gguf(
    get: Callable[[str], Any],
    config: Mapping[str, Any],
    architecture: Architecture,
    shapes: Mapping[str, tuple[int, ...]],
    rope_factors: np.ndarray | None,
    where: str,
) -> dict[str, Any]:
    hidden, heads, rotary = config["hidden_size"], config["num_attention_heads"], get("rope.dimension_count")
    share: Any = _NEOX_ROTARY_SHARE
    if all(isinstance(value, int) and value > 0 for value in (hidden, heads, rotary)) and hidden >= heads:
        share = rotary / (hidden // heads)
    return {
        "hidden_act": "gelu",
        "layer_norm_eps": _number(get("attention.layer_norm_epsilon"), None),
        "rotary_emb_base": _number(get("rope.freq_base"), _DEFAULT_ROPE_THETA),
        "rotary_pct": share,
        "use_parallel_residual": get("use_parallel_residual") is not False,
    }


def _llama_like_gguf(
    get: Callable[[str], Any],
    config: Mapping[str, Any],
    architecture: Architecture,
    shapes: Mapping[str, tuple[int, ...]],
    rope_factors: np.ndarray | None,
    where: str,
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "hidden_act": "silu",
        "rms_norm_eps": _number(get("attention.layer_norm_rms_epsilon"), None),
        "rope_theta": _number(get("rope.freq_base"), _DEFAULT_ROPE_THETA),
        "use_sliding_window": False,
    }
    if architecture.qk_norm:
        found["attention_bias"] = False
        found["head_dim"] = get("attention.key_length") or _QWEN3_HEAD_DIM
    if architecture.model_type == "llama":
        found["attention_bias"] = "model.layers.0.self_attn.q_proj.bias" in shapes
        found["mlp_bias"] = "model.layers.0.mlp.up_proj.bias" in shapes
        if get("attention.key_length") is not None:
            found["head_dim"] = get("attention.key_length")
    scaling = _gguf_rope_scaling(get, where)
    if rope_factors is not None:
        scaling = llama3_scaling(rope_factors, found["rope_theta"], where)
    return found if scaling is None else found | {"rope_scaling": scaling}


def llama3_factors(scaling: Mapping[str, Any], theta: float, n: int) -> np.ndarray:
    """By how much Llama 3's scaling divides each of the `n` rotary frequencies.

    Source: the rope_type llama3 of transformers, `_compute_llama3_parameters`; llama.cpp stores the result as
    rope_freqs.weight.
    """
    wavelength = 2 * np.pi * theta ** (np.arange(n) / n)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    smooth = np.clip((scaling["original_max_position_embeddings"] / wavelength - low) / (high - low), 0, 1)
    return 1 / ((1 - smooth) / scaling["factor"] + smooth)


def llama3_scaling(factors: np.ndarray, theta: float, where: str) -> dict[str, Any]:
    """The rope_scaling that gives these `factors`: GGUF keeps the result only, so the released settings are tried.

    Raises:
        InputError: they come from other settings.
    """
    largest = float(factors.max())
    scaling = {
        "rope_type": "llama3",
        "factor": _shortest(largest),
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    if not (np.isfinite(largest) and largest > 0 and isinstance(theta, int | float) and theta > 0) or not np.allclose(
        llama3_factors(scaling, theta, factors.size), factors, rtol=1e-3
    ):
        raise InputError(f"{where}: rope_freqs.weight does not come from Llama 3's settings; give the original model")
    return scaling
