"""A second implementation of the models, in numpy, straight from config.json as transformers interprets it.

It shares no code with mlx-lm or with the code that writes configurations, so a key that one of them drops or reads
differently shows in the logits. Weights are read a block of rows at a time.

Sources: the modeling files of transformers 5 for qwen2, qwen3, llama, mistral and gpt_neox; modeling_rope_utils.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from converters.tensors import TensorEntry, to_float32

KINDS = ("qwen2", "qwen3", "llama", "mistral", "gpt_neox")
_Array = np.ndarray


def logits(config: Mapping[str, Any], entries: Mapping[str, TensorEntry], tokens: _Array) -> _Array:
    """The logits (T, V) of token ids (T,), in float32. `entries` by their Hugging Face names, `config` as the file has
    it; gpt_neox's exact gelu is taken as its tanh approximation, which mlx-lm and llama.cpp compute.
    """
    run = _neox if config["model_type"] == "gpt_neox" else _llama_like
    return run(config, _Weights(entries), tokens)


class _Weights:
    """The tensors by name, read when asked for."""

    def __init__(self, entries: Mapping[str, TensorEntry]) -> None:
        self._entries = entries

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def vector(self, name: str) -> _Array:
        entry = self._entries[name]
        return to_float32(entry.load(), entry.dtype)

    def rows(self, name: str, numbers: _Array) -> _Array:
        """The rows with these numbers (T, D)."""
        entry = self._entries[name]
        return to_float32(np.concatenate([entry.read_rows(int(n), int(n) + 1) for n in numbers]), entry.dtype)

    def linear(self, x: _Array, module: str) -> _Array:
        """x (T, D_in) -> (T, D_out), with the bias if the file has one."""
        entry = self._entries[f"{module}.weight"]
        parts = [x @ to_float32(entry.read_rows(start, stop), entry.dtype).T for start, stop in entry.spans()]
        out = np.concatenate(parts, axis=1)
        return out + self.vector(f"{module}.bias") if f"{module}.bias" in self else out


def rope_parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """All rotary settings: a key of `rope_parameters` wins over the configuration's, and that over the default."""
    found = dict(config.get("rope_scaling") or config.get("rope_parameters") or {})
    neox = config["model_type"] == "gpt_neox"
    found.setdefault("rope_theta", config.get("rotary_emb_base" if neox else "rope_theta"))
    if found["rope_theta"] is None:
        found["rope_theta"] = 10_000.0
    share = config.get("rotary_pct", 0.25) if neox else config.get("partial_rotary_factor") or 1.0
    found.setdefault("partial_rotary_factor", share)
    found.setdefault("rope_type", found.get("type", "default"))
    if found["rope_type"] in ("llama3", "yarn"):
        beside = config.get("original_max_position_embeddings")
        if beside is not None:
            found["original_max_position_embeddings"] = beside
        if found.get("original_max_position_embeddings") is None:
            found["original_max_position_embeddings"] = _positions(config)
        if found.get("factor") is None:
            found["factor"] = _positions(config) / found["original_max_position_embeddings"]
    return found


def rotary(config: Mapping[str, Any], n_tokens: int) -> tuple[_Array, float]:
    """(frequencies in radians per position (R / 2,), the factor on cosine and sine) for a text of `n_tokens`."""
    rope = rope_parameters(config)
    n = int(head_dim(config) * rope["partial_rotary_factor"])
    base, powers = float(rope["rope_theta"]), np.arange(0, n, 2) / n
    kind: str = rope["rope_type"]
    factor: Any = rope.get("factor")
    if kind == "dynamic":
        longest = _positions(config)
        stretched = factor * max(n_tokens, longest) / longest - (factor - 1)
        base *= stretched ** (n / (n - 2))
    plain = base**-powers
    if kind == "linear":
        return plain / factor, 1.0
    if kind == "llama3":
        return _llama3(plain, rope), 1.0
    if kind == "yarn":
        return _yarn(plain, rope, n, base)
    if kind in ("default", "dynamic"):
        return plain, 1.0
    raise ValueError(f"rope_type {kind}")


def _llama3(plain: _Array, rope: Mapping[str, Any]) -> _Array:
    turns = rope["original_max_position_embeddings"] * plain / (2 * np.pi)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return plain * (kept + (1 - kept) / rope["factor"])


def _yarn(plain: _Array, rope: Mapping[str, Any], n: int, base: float) -> tuple[_Array, float]:
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


def rotated(x: _Array, config: Mapping[str, Any], start: int = 0) -> _Array:
    """Queries or keys (..., T, D) at the positions `start`, `start` + 1, ...; what is beyond R stays."""
    frequencies, factor = rotary(config, start + x.shape[-2])
    n = len(frequencies)
    angles = (start + np.arange(x.shape[-2]))[:, None] * frequencies
    cosine, sine = ((turn(angles) * factor).astype(np.float32) for turn in (np.cos, np.sin))
    first, second = x[..., :n], x[..., n : 2 * n]
    return np.concatenate([first * cosine - second * sine, second * cosine + first * sine, x[..., 2 * n :]], axis=-1)


def _positions(config: Mapping[str, Any]) -> int:
    usual = {"llama": 2048, "gpt_neox": 2048, "mistral": 131_072}.get(config["model_type"], 32_768)
    return config.get("max_position_embeddings") or usual


def head_dim(config: Mapping[str, Any]) -> int:
    """The dimension of one attention head."""
    own = 128 if config["model_type"] == "qwen3" else config["hidden_size"] // config["num_attention_heads"]
    return config.get("head_dim") or own


def _window(config: Mapping[str, Any], block: int) -> int | None:
    """How many tokens back block `block` looks; None: all."""
    kind = config["model_type"]
    if kind == "mistral":
        return config.get("sliding_window", 4096)
    if kind not in ("qwen2", "qwen3") or not config.get("use_sliding_window"):
        return None
    layers = config.get("layer_types")
    slides = layers[block] == "sliding_attention" if layers else block >= config.get("max_window_layers", 28)
    return config.get("sliding_window", 4096) if slides else None


def _attention(q: _Array, k: _Array, v: _Array, window: int | None) -> _Array:
    """Causal attention of heads: q (H, T, D), k and v (K, T, D) -> (T, H * D)."""
    groups = q.shape[0] // k.shape[0]
    k, v = np.repeat(k, groups, axis=0), np.repeat(v, groups, axis=0)
    scores = q @ k.swapaxes(1, 2) / np.float32(math.sqrt(q.shape[-1]))
    back = np.arange(q.shape[1])[:, None] - np.arange(q.shape[1])
    seen = (back >= 0) & (back < (window or q.shape[1]))
    scores = np.where(seen, scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return (weights @ v).swapaxes(0, 1).reshape(q.shape[1], -1)


def _heads(x: _Array, count: int) -> _Array:
    return x.reshape(x.shape[0], count, -1).swapaxes(0, 1)


def _rms(x: _Array, weight: _Array, eps: float) -> _Array:
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + np.float32(eps)) * weight


def _silu(x: _Array) -> _Array:
    return x / (1 + np.exp(-np.clip(x, -80, None)))


def _gelu(x: _Array) -> _Array:
    return 0.5 * x * (1 + np.tanh(np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x**3)))


def _llama_like(config: Mapping[str, Any], weights: _Weights, tokens: _Array) -> _Array:
    eps, heads = config.get("rms_norm_eps", 1e-6), config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads

    def norm(x: _Array, name: str) -> _Array:
        return _rms(x, weights.vector(f"{name}.weight"), eps)

    h = weights.rows("model.embed_tokens.weight", tokens)
    for block in range(config["num_hidden_layers"]):
        at = f"model.layers.{block}"
        x = norm(h, f"{at}.input_layernorm")
        q, k = (
            _heads(weights.linear(x, f"{at}.self_attn.{part}_proj"), count)
            for part, count in (("q", heads), ("k", kv_heads))
        )
        if f"{at}.self_attn.q_norm.weight" in weights:
            q, k = norm(q, f"{at}.self_attn.q_norm"), norm(k, f"{at}.self_attn.k_norm")
        v = _heads(weights.linear(x, f"{at}.self_attn.v_proj"), kv_heads)
        mixed = _attention(rotated(q, config), rotated(k, config), v, _window(config, block))
        h = h + weights.linear(mixed, f"{at}.self_attn.o_proj")
        x = norm(h, f"{at}.post_attention_layernorm")
        gate = _silu(weights.linear(x, f"{at}.mlp.gate_proj"))
        h = h + weights.linear(gate * weights.linear(x, f"{at}.mlp.up_proj"), f"{at}.mlp.down_proj")
    h = norm(h, "model.norm")
    return weights.linear(h, "lm_head" if "lm_head.weight" in weights else "model.embed_tokens")


def _neox(config: Mapping[str, Any], weights: _Weights, tokens: _Array) -> _Array:
    eps, heads = config.get("layer_norm_eps", 1e-5), config["num_attention_heads"]

    def norm(x: _Array, name: str) -> _Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + np.float32(eps))
        return scaled * weights.vector(f"{name}.weight") + weights.vector(f"{name}.bias")

    h = weights.rows("gpt_neox.embed_in.weight", tokens)
    for block in range(config["num_hidden_layers"]):
        at = f"gpt_neox.layers.{block}"
        fused = weights.linear(norm(h, f"{at}.input_layernorm"), f"{at}.attention.query_key_value")
        q, k, v = np.split(_heads(fused, heads), 3, axis=-1)
        mixed = _attention(rotated(q, config), rotated(k, config), v, None)
        attended = weights.linear(mixed, f"{at}.attention.dense")
        parallel = config.get("use_parallel_residual", True)
        x = norm(h if parallel else h + attended, f"{at}.post_attention_layernorm")
        widened = _gelu(weights.linear(x, f"{at}.mlp.dense_h_to_4h"))
        h = h + attended + weights.linear(widened, f"{at}.mlp.dense_4h_to_h")
    return weights.linear(norm(h, "gpt_neox.final_layer_norm"), "embed_out")
