"""A complete configuration from GGUF metadata, read as llama.cpp reads it.

Source: llama.cpp, llama-model.cpp (load_hparams) and llama-context.cpp (the rope settings of a context).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from converters.names import Architecture, gguf_architecture
from mlx_loopai.errors import InputError, all_problems
from mlx_loopai.language import tr
from mlx_loopai.models.architectures.exaone4 import GGUF_WINDOW_PATTERN, GGUF_WINDOWED_BLOCKS
from mlx_loopai.models.architectures.gemma3_text import gguf_query_scalar
from mlx_loopai.models.configuration import DEFAULT_MAX_POSITIONS, complete_configuration
from mlx_loopai.models.rope import BETA_FAST, BETA_SLOW, DEFAULT_THETA, NEOX_ROTARY_SHARE

# llama.cpp multiplies by these where an architecture knows them; the models read here have no place for them.
_MULTIPLIERS = ("attention.scale", "logit_scale", "residual_scale", "embedding_scale")
# What llama.cpp assumes where a file has no key.
_EXAONE4_WINDOW, _GEMMA3_PATTERN = 4096, 6
# YaRN's keys that llama.cpp reads for some architectures, none of them supported here, and their usual values.
_YARN_KEYS = {
    "yarn_ext_factor": 1.0,
    "yarn_attn_factor": 1.0,
    "yarn_log_multiplier": 0.0,
    "yarn_beta_fast": float(BETA_FAST),
    "yarn_beta_slow": float(BETA_SLOW),
}


@dataclass(frozen=True)
class _File:
    """What a configuration is read from. `shapes`: of the tensors, by their Hugging Face names."""

    metadata: Mapping[str, Any]
    architecture: Architecture
    shapes: Mapping[str, tuple[int, ...]]
    rope_factors: np.ndarray | None
    where: str

    def get(self, key: str) -> Any:
        """The value of an architecture's key."""
        return self.metadata.get(f"{self.architecture.gguf}.{key}")

    def number(self, key: str, default: float | None) -> Any:
        """The key's value, a float in its shortest decimal form (see `_shortest`), or the default."""
        value = self.get(key)
        return _shortest(value) if isinstance(value, float) else default if value is None else value


def from_gguf(
    metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], rope_factors: np.ndarray | None, where: str
) -> dict[str, Any]:
    """A complete configuration from GGUF metadata. `shapes`: the file's tensors by their Hugging Face names.

    Raises:
        InputError: unsupported architecture, or a field that is missing, absurd or not computed by mlx-lm.
    """
    architecture = gguf_architecture(metadata.get("general.architecture"), where)
    file = _File(metadata, architecture=architecture, shapes=shapes, rope_factors=rope_factors, where=where)
    heads = file.get("attention.head_count")
    config: dict[str, Any] = {
        "architectures": [architecture.class_name],
        "model_type": architecture.model_type,
        "vocab_size": shapes[architecture.embedding][0],
        "hidden_size": file.get("embedding_length"),
        # May be missing where every block has experts; then nothing has this width.
        "intermediate_size": file.get("feed_forward_length") or file.get("expert_feed_forward_length"),
        "num_hidden_layers": file.get("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": heads
        if file.get("attention.head_count_kv") is None
        else file.get("attention.head_count_kv"),
        "max_position_embeddings": file.get("context_length") or DEFAULT_MAX_POSITIONS,
        "tie_word_embeddings": architecture.head not in shapes,
    }
    config |= _neox(file, config) if architecture.model_type == "gpt_neox" else _llama_like(file)
    for name, key in (("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding")):
        token = metadata.get(f"tokenizer.ggml.{key}_token_id")
        if isinstance(token, int):
            config[name] = token
    _check_multipliers(file)
    complete = complete_configuration(config, where)
    _check_head(file, complete)
    return complete


def _check_multipliers(file: _File) -> None:
    found = [f"{key} {file.get(key)}" for key in _MULTIPLIERS if file.get(key) not in (None, 0.0, 1.0)]
    if found:
        raise InputError(
            tr(
                "{where}: {problems}: mlx-lm's model has no such factor",
                where=file.where,
                problems=all_problems(found),
            )
        )


def _check_head(file: _File, config: Mapping[str, Any]) -> None:
    if config["model_type"] == "gpt_neox" or file.architecture.delta_heads is not None:
        return
    head_dim = config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])
    for key in ("rope.dimension_count", "attention.value_length"):
        if file.get(key) not in (None, head_dim):
            raise InputError(
                tr(
                    "{where}: {key} is {value} where a head has {head_dim} values",
                    where=file.where,
                    key=key,
                    value=file.get(key),
                    head_dim=head_dim,
                )
            )


def _neox(file: _File, config: Mapping[str, Any]) -> dict[str, Any]:
    hidden, heads, rotary = config["hidden_size"], config["num_attention_heads"], file.get("rope.dimension_count")
    share: Any = NEOX_ROTARY_SHARE
    if all(isinstance(value, int) and value > 0 for value in (hidden, heads, rotary)) and hidden >= heads:
        share = rotary / (hidden // heads)
    if _scaling(file) is not None:
        raise InputError(
            tr("{where}: rope scaling is not supported for gpt_neox, whose scaling mlx-lm ignores", where=file.where)
        )
    return {
        "hidden_act": "gelu",
        "layer_norm_eps": file.number("attention.layer_norm_epsilon", None),
        "rotary_emb_base": file.number("rope.freq_base", DEFAULT_THETA),
        "rotary_pct": share,
        "use_parallel_residual": file.get("use_parallel_residual") is not False,
    }


def _llama_like(file: _File) -> dict[str, Any]:
    found: dict[str, Any] = {
        "hidden_act": "silu",
        "rms_norm_eps": file.number("attention.layer_norm_rms_epsilon", None),
        "rope_theta": file.number("rope.freq_base", DEFAULT_THETA),
        "use_sliding_window": False,
    }
    head_dim = file.get("attention.key_length") or file.architecture.head_dim
    if head_dim is not None:
        found["head_dim"] = head_dim
    if file.architecture.model_type == "exaone4":
        del found["use_sliding_window"]
        found |= _windows_of_exaone4(file)
    if file.architecture.model_type == "gemma3_text":
        del found["use_sliding_window"], found["hidden_act"]
        found |= _windows_of_gemma3(file)
    if file.architecture.delta_heads is not None:
        found |= _linear_attention(file, found)
    if file.architecture.experts is not None:
        found |= _experts(file)
    if file.architecture.model_type == "llama":
        found["attention_bias"] = "model.layers.0.self_attn.q_proj.bias" in file.shapes
        found["mlp_bias"] = "model.layers.0.mlp.up_proj.bias" in file.shapes
    scaling = _scaling(file)
    if file.rope_factors is not None:
        if scaling is not None:
            raise InputError(
                tr("{where}: rope_freqs.weight together with rope scaling is not supported", where=file.where)
            )
        scaling = llama3_scaling(file.rope_factors, found["rope_theta"], file.where)
    return found if scaling is None else found | {"rope_scaling": scaling}


def _experts(file: _File) -> dict[str, Any]:
    found = {
        "num_experts": file.get("expert_count"),
        "num_experts_per_tok": file.get("expert_used_count"),
        "moe_intermediate_size": file.get("expert_feed_forward_length"),
        "norm_topk_prob": True,
    }
    if file.architecture.model_type == "qwen3_5_moe":
        return found | {"shared_expert_intermediate_size": file.get("expert_shared_feed_forward_length")}
    return found | {"decoder_sparse_step": 1, "mlp_only_layers": []}


def _windows_of_exaone4(file: _File) -> dict[str, Any]:
    """llama.cpp decides by the number of blocks, whatever the file says: the 32B has sliding windows, others none."""
    if file.get("block_count") != GGUF_WINDOWED_BLOCKS:
        return {"sliding_window": None, "sliding_window_pattern": None}
    window = file.get("attention.sliding_window") or _EXAONE4_WINDOW
    return {"sliding_window": window, "sliding_window_pattern": GGUF_WINDOW_PATTERN}


def _windows_of_gemma3(file: _File) -> dict[str, Any]:
    sizes = {
        "num_hidden_layers": file.get("block_count"),
        "hidden_size": file.get("embedding_length"),
        "num_attention_heads": file.get("attention.head_count"),
        "head_dim": file.get("attention.key_length"),
        "sliding_window": file.get("attention.sliding_window"),
    }
    wrong = [f"{key} is {value!r}" for key, value in sizes.items() if not isinstance(value, int) or value < 1]
    if wrong:
        raise InputError(
            tr(
                "{where}: {problems} where a positive whole number is needed",
                where=file.where,
                problems=all_problems(wrong),
            )
        )
    every = file.get("attention.sliding_window_pattern")
    if every is not None and not isinstance(every, int):
        raise InputError(
            tr("{where}: a list of the blocks that see a window is not read; give the original model", where=file.where)
        )
    return {
        "sliding_window": sizes["sliding_window"],
        "sliding_window_pattern": every or _GEMMA3_PATTERN,
        "query_pre_attn_scalar": gguf_query_scalar(sizes),
        "rope_local_base_freq": file.number("rope.freq_base_swa", DEFAULT_THETA),
    }


def _linear_attention(file: _File, found: dict[str, Any]) -> dict[str, Any]:
    """The keys of Qwen3.5's linear attention, and its rotary settings, which stand in one object."""
    del found["use_sliding_window"]
    values, inner = file.get("ssm.time_step_rank"), file.get("ssm.inner_size")
    head_dim, rotary = found.get("head_dim"), file.get("rope.dimension_count")
    sizes = {
        "ssm.time_step_rank": values,
        "ssm.inner_size": inner,
        "rope.dimension_count": rotary,
        "head_dim": head_dim,
    }
    wrong = [f"{key} is {value!r}" for key, value in sizes.items() if not isinstance(value, int) or value < 1]
    if wrong:
        raise InputError(
            tr(
                "{where}: {problems} where a positive whole number is needed",
                where=file.where,
                problems=all_problems(wrong),
            )
        )
    rope: dict[str, Any] = {
        "rope_type": "default",
        "rope_theta": found.pop("rope_theta"),
        "partial_rotary_factor": rotary / head_dim,
    }
    sections = file.get("rope.dimension_sections")
    if sections is not None:
        rope |= {"mrope_section": [int(part) for part in sections[:3]], "mrope_interleaved": True}
    return {
        "linear_conv_kernel_dim": file.get("ssm.conv_kernel"),
        "linear_key_head_dim": file.get("ssm.state_size"),
        "linear_num_key_heads": file.get("ssm.group_count"),
        "linear_num_value_heads": values,
        "linear_value_head_dim": inner // values,
        "full_attention_interval": file.get("full_attention_interval"),
        "rope_parameters": rope,
    }


def _scaling(file: _File) -> dict[str, Any] | None:
    # Without a type llama.cpp scales linearly, if there is a factor at all.
    kind = file.get("rope.scaling.type") or "linear"
    factor = file.number("rope.scaling.factor", file.number("rope.scale_linear", None))
    attention = file.number("rope.scaling.attn_factor", 1.0)
    if kind != "yarn" and attention != 1:
        raise InputError(
            tr(
                "{where}: rope.scaling.attn_factor is {attention}, which mlx-lm knows for yarn only",
                where=file.where,
                attention=attention,
            )
        )
    if kind == "none" or (kind == "linear" and factor in (None, 0, 1)):
        return None
    if kind not in ("linear", "yarn") or not isinstance(factor, float):
        raise InputError(
            tr(
                "{where}: rope scaling {kind!r} with factor {factor!r} is not supported; linear and yarn are",
                where=file.where,
                kind=kind,
                factor=factor,
            )
        )
    scaling: dict[str, Any] = {"rope_type": kind, "type": kind, "factor": factor}
    if kind == "yarn":
        scaling |= _yarn(file, factor, attention)
    return scaling


def _yarn(file: _File, factor: float, attention: float) -> dict[str, Any]:
    """YaRN's keys. llama.cpp scales by `attn_factor` times 0.1 ln(factor) + 1."""
    for key, usual in _YARN_KEYS.items():
        value = file.number(f"rope.scaling.{key}", usual)
        if value != usual:
            raise InputError(
                tr(
                    "{where}: rope.scaling.{key} is {value}, which llama.cpp does not read for {gguf}; give the "
                    "original model",
                    where=file.where,
                    key=key,
                    value=value,
                    gguf=file.architecture.gguf,
                )
            )
    scaling: dict[str, Any] = {
        "original_max_position_embeddings": file.get("rope.scaling.original_context_length")
        or file.get("context_length")
    }
    if attention != 1:
        scaling["attention_factor"] = attention * (0.1 * math.log(factor) + 1)
    return scaling


def _shortest(value: float) -> float:
    """A float32 read from a file as people write it: 9.99999997e-07 -> 1e-06."""
    return float(str(np.float32(value)))


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
        raise InputError(
            tr("{where}: rope_freqs.weight does not come from Llama 3's settings; give the original model", where=where)
        )
    return scaling
