"""Rotary positions, from a configuration as transformers interprets it.

Source: modeling_rope_utils.py of transformers 5, and its configuration classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

Array = np.ndarray
FULL, SLIDING, LINEAR = "full_attention", "sliding_attention", "linear_attention"


def rope_parameters(config: Mapping[str, Any], kind: str = FULL) -> dict[str, Any]:
    """All rotary settings of blocks of a kind: a key of `rope_parameters` wins over the configuration's, and that over
    the default.
    """
    model = config["model_type"]
    found = _by_kind(config, kind) if model == "gemma3_text" else _nested(config)
    names = {"gpt_neox": "rotary_emb_base", "gemma3_text": "rope_theta" if kind == FULL else "rope_local_base_freq"}
    found.setdefault("rope_theta", config.get(names.get(model, "rope_theta")))
    if found["rope_theta"] is None:
        found["rope_theta"] = 1_000_000.0 if model == "gemma3_text" and kind == FULL else 10_000.0
    share = config.get("rotary_pct" if model == "gpt_neox" else "partial_rotary_factor")
    usual = {"gpt_neox": 0.25, "qwen3_5": 0.25, "qwen3_5_moe": 0.25}.get(model, 1.0)
    found.setdefault("partial_rotary_factor", usual if share is None else share)
    found.setdefault("rope_type", found.get("type", "default"))
    if found["rope_type"] == "mrope":
        # Three positions, which are equal in a text.
        found["rope_type"] = "default"
    if found["rope_type"] in ("llama3", "yarn"):
        beside = config.get("original_max_position_embeddings")
        if beside is not None:
            found["original_max_position_embeddings"] = beside
        if found.get("original_max_position_embeddings") is None:
            found["original_max_position_embeddings"] = _positions(config)
        if found.get("factor") is None:
            found["factor"] = _positions(config) / found["original_max_position_embeddings"]
    return found


def _nested(config: Mapping[str, Any]) -> dict[str, Any]:
    return dict(config.get("rope_scaling") or config.get("rope_parameters") or {})


def _by_kind(config: Mapping[str, Any], kind: str) -> dict[str, Any]:
    found = dict((config.get("rope_parameters") or {}).get(kind) or {})
    return found | (config.get("rope_scaling") or {}) if kind == FULL else found


def rotary(config: Mapping[str, Any], n_tokens: int, kind: str = FULL) -> tuple[Array, float]:
    """(frequencies in radians per position (R / 2,), the factor on cosine and sine) for a text of `n_tokens`, in blocks
    of a kind.
    """
    rope = rope_parameters(config, kind)
    n = int(head_dim(config) * rope["partial_rotary_factor"])
    base, powers = float(rope["rope_theta"]), np.arange(0, n, 2) / n
    scaling: str = rope["rope_type"]
    factor: Any = rope.get("factor")
    if scaling == "dynamic":
        longest = _positions(config)
        stretched = factor * max(n_tokens, longest) / longest - (factor - 1)
        base *= stretched ** (n / (n - 2))
    plain = base**-powers
    if scaling == "linear":
        return plain / factor, 1.0
    if scaling == "llama3":
        return _llama3(plain, rope), 1.0
    if scaling == "yarn":
        return _yarn(plain, rope, n, base)
    if scaling in ("default", "dynamic"):
        return plain, 1.0
    raise ValueError(f"rope_type {scaling}")


def _llama3(plain: Array, rope: Mapping[str, Any]) -> Array:
    turns = rope["original_max_position_embeddings"] * plain / (2 * np.pi)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return plain * (kept + (1 - kept) / rope["factor"])


def _yarn(plain: Array, rope: Mapping[str, Any], n: int, base: float) -> tuple[Array, float]:
    factor, original = float(rope["factor"]), rope["original_max_position_embeddings"]

    def dimension(turns: float) -> float:
        return n * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base))

    low = max(math.floor(dimension(rope.get("beta_fast") or 32)), 0)
    high = min(math.ceil(dimension(rope.get("beta_slow") or 1)), n - 1)
    ramp = np.clip((np.arange(n // 2) - low) / (high - low if high != low else 0.001), 0, 1)

    def mscale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1

    attention = rope.get("attention_factor")
    if attention is None:
        both = rope.get("mscale") and rope.get("mscale_all_dim")
        attention = mscale(rope["mscale"]) / mscale(rope["mscale_all_dim"]) if both else mscale(1)
    return plain * (1 - ramp) + plain / factor * ramp, attention


def rotated(x: Array, config: Mapping[str, Any], start: int = 0, kind: str = FULL) -> Array:
    """Queries or keys (..., T, D) of a block at the positions `start`, `start` + 1, ...; what is beyond R stays."""
    frequencies, factor = rotary(config, start + x.shape[-2], kind)
    n = len(frequencies)
    angles = (start + np.arange(x.shape[-2]))[:, None] * frequencies
    cosine, sine = ((turn(angles) * factor).astype(np.float32) for turn in (np.cos, np.sin))
    first, second = x[..., :n], x[..., n : 2 * n]
    return np.concatenate([first * cosine - second * sine, second * cosine + first * sine, x[..., 2 * n :]], axis=-1)


def _positions(config: Mapping[str, Any]) -> int:
    usual = {"llama": 2048, "gpt_neox": 2048, "exaone4": 2048, "mistral": 131_072, "gemma3_text": 131_072}.get(
        config["model_type"], 32_768
    )
    return config.get("max_position_embeddings") or usual


def head_dim(config: Mapping[str, Any]) -> int:
    """The dimension of one attention head."""
    usual = {"qwen3": 128, "qwen3_5": 256, "qwen3_5_moe": 256, "gemma3_text": 256}
    split = config["hidden_size"] // config.get("num_attention_heads", 8)
    return config.get("head_dim") or usual.get(config["model_type"], split)
