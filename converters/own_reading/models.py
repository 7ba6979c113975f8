"""A second implementation of the models, in numpy, straight from config.json as transformers interprets it.

It shares no code with mlx-lm or with the code that writes configurations, so a key that one of them drops or reads
differently shows in the logits. Weights are read a block of rows at a time.

Sources: the modeling and configuration files of transformers 5 for each architecture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from converters.own_reading.layers import Weights, attention, gelu, heads, rms, sigmoid, silu
from converters.own_reading.mixers import delta_rule, experts, gated_mlp
from converters.own_reading.rotary import FULL, LINEAR, SLIDING, Array, rotated
from converters.tensors import TensorEntry

# The norms of a block: before and after its attention, before and after its MLP.
_PRE_NORM = ("input_layernorm", None, "post_attention_layernorm", None)
_NORMS = {
    "exaone4": (None, "post_attention_layernorm", None, "post_feedforward_layernorm"),
    "gemma3_text": (
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
    ),
}
# Whose norms multiply by 1 + w.
_ONE_HIGHER = ("qwen3_5", "qwen3_5_moe", "gemma3_text")


def logits(config: Mapping[str, Any], entries: Mapping[str, TensorEntry], tokens: Array) -> Array:
    """The logits (T, V) of token ids (T,), in float32. `entries` by their Hugging Face names, `config` as the file has
    it; gpt_neox's exact gelu is taken as its tanh approximation, which mlx-lm and llama.cpp compute.
    """
    weights = Weights(entries)
    if config["model_type"] == "gpt_neox":
        return _neox(config, weights, tokens)
    return _Decoder(config, weights).logits(tokens)


def kinds(config: Mapping[str, Any]) -> list[str]:
    """What each block is, in transformers' words."""
    model, blocks = config["model_type"], config["num_hidden_layers"]
    given = config.get("layer_types")
    if model in ("qwen3_5", "qwen3_5_moe"):
        every = config.get("full_attention_interval", 4)
        return given or [LINEAR if (block + 1) % every else FULL for block in range(blocks)]
    if model == "gemma3_text":
        every = config.get("sliding_window_pattern") or 6
        return given or [SLIDING if (block + 1) % every else FULL for block in range(blocks)]
    if model == "exaone4" and config.get("sliding_window", 4096) is not None:
        pattern = config.get("sliding_window_pattern", 4)
        letters = pattern if isinstance(pattern, str) else "L" * ((pattern or 1) - 1) + "G"
        return given or [SLIDING if letters[block % len(letters)] == "L" else FULL for block in range(blocks)]
    if model in ("qwen2", "qwen3") and config.get("use_sliding_window"):
        first = config.get("max_window_layers", 28)
        return given or [SLIDING if block >= first else FULL for block in range(blocks)]
    return [SLIDING if model == "mistral" else FULL] * blocks


def has_positions(config: Mapping[str, Any], kind: str) -> bool:
    """Whether blocks of a kind rotate queries and keys."""
    # EXAONE 4 gives positions to its windows only, where it has some.
    windowed = config["model_type"] == "exaone4" and config.get("sliding_window", 4096) is not None
    return kind == SLIDING if windowed else kind != LINEAR


class _Decoder:
    """Any of the models with RMSNorms and a gated MLP."""

    def __init__(self, config: Mapping[str, Any], weights: Weights) -> None:
        self._config, self._weights = config, weights
        self._model: str = config["model_type"]
        self._kinds = kinds(config)
        self._heads = config.get("num_attention_heads", 8)
        usual = 4 if self._model == "gemma3_text" else self._heads
        self._kv_heads = config.get("num_key_value_heads") or usual
        self._activation: Callable[[Array], Array] = gelu if self._model == "gemma3_text" else silu

    def logits(self, tokens: Array) -> Array:
        h = self._weights.rows("model.embed_tokens.weight", tokens)
        if self._model == "gemma3_text":
            h = h * _bfloat16(math.sqrt(self._config["hidden_size"]))
        for block in range(self._config["num_hidden_layers"]):
            h = self._block(h, block)
        head = "lm_head" if "lm_head.weight" in self._weights else "model.embed_tokens"
        return self._weights.linear(self._norm(h, "model.norm"), head)

    def _block(self, h: Array, block: int) -> Array:
        at = f"model.layers.{block}"
        before, after, before_mlp, after_mlp = _NORMS.get(self._model, _PRE_NORM)
        mixed = self._mixed(self._norm(h, before and f"{at}.{before}"), at, block)
        h = h + self._norm(mixed, after and f"{at}.{after}")
        widened = self._widened(self._norm(h, before_mlp and f"{at}.{before_mlp}"), f"{at}.mlp", block)
        return h + self._norm(widened, after_mlp and f"{at}.{after_mlp}")

    def _norm(self, x: Array, name: str | None) -> Array:
        if name is None:
            return x
        weight = self._weights.vector(f"{name}.weight") + np.float32(self._model in _ONE_HIGHER)
        usual = 1e-5 if self._model == "exaone4" else 1e-6
        return rms(x, weight, self._config.get("rms_norm_eps", usual))

    def _mixed(self, x: Array, at: str, block: int) -> Array:
        kind = self._kinds[block]
        if kind == LINEAR:
            return delta_rule(x, f"{at}.linear_attn", self._config, self._weights)
        at = f"{at}.self_attn"
        queries, gate = self._weights.linear(x, f"{at}.q_proj"), None
        if self._model in ("qwen3_5", "qwen3_5_moe"):
            # Head by head, the queries and a gate for what is attended to.
            parts = np.split(queries.reshape(len(x), self._heads, -1), 2, axis=-1)
            queries, gate = (part.reshape(len(x), -1) for part in parts)
        q = heads(queries, self._heads)
        k, v = (heads(self._weights.linear(x, f"{at}.{part}_proj"), self._kv_heads) for part in "kv")
        if f"{at}.q_norm.weight" in self._weights:
            q, k = self._norm(q, f"{at}.q_norm"), self._norm(k, f"{at}.k_norm")
        if has_positions(self._config, kind):
            q, k = (rotated(part, self._config, kind=kind) for part in (q, k))
        scalar = self._config.get("query_pre_attn_scalar", 256) if self._model == "gemma3_text" else None
        window = self._config.get("sliding_window", 4096) if kind == SLIDING else None
        attended = attention(q, k, v, window, scalar)
        return self._weights.linear(attended if gate is None else attended * sigmoid(gate), f"{at}.o_proj")

    def _widened(self, x: Array, at: str, block: int) -> Array:
        sparse = self._model == "qwen3_5_moe" or (
            self._model == "qwen3_moe"
            and block not in (self._config.get("mlp_only_layers") or ())
            and (block + 1) % self._config.get("decoder_sparse_step", 1) == 0
        )
        if sparse:
            return experts(x, at, self._config, self._weights)
        return gated_mlp(x, at, self._weights, self._activation)


def _bfloat16(value: float) -> np.float32:
    """`value` in bfloat16, the type that Gemma was trained in and its embedding's factor is rounded to."""
    bits = np.float32(value).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (rounded & np.uint32(0xFFFF0000)).view(np.float32)


def _neox(config: Mapping[str, Any], weights: Weights, tokens: Array) -> Array:
    eps, count = config.get("layer_norm_eps", 1e-5), config["num_attention_heads"]

    def norm(x: Array, name: str) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + np.float32(eps))
        return scaled * weights.vector(f"{name}.weight") + weights.vector(f"{name}.bias")

    h = weights.rows("gpt_neox.embed_in.weight", tokens)
    for block in range(config["num_hidden_layers"]):
        at = f"gpt_neox.layers.{block}"
        fused = weights.linear(norm(h, f"{at}.input_layernorm"), f"{at}.attention.query_key_value")
        q, k, v = np.split(heads(fused, count), 3, axis=-1)
        mixed = attention(rotated(q, config), rotated(k, config), v, None)
        attended = weights.linear(mixed, f"{at}.attention.dense")
        parallel = config.get("use_parallel_residual", True)
        x = norm(h if parallel else h + attended, f"{at}.post_attention_layernorm")
        widened = gelu(weights.linear(x, f"{at}.mlp.dense_h_to_4h"))
        h = h + attended + weights.linear(widened, f"{at}.mlp.dense_4h_to_h")
    return weights.linear(norm(h, "gpt_neox.final_layer_norm"), "embed_out")
