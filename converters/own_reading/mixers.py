"""The gated delta rule of linear attention, and mixtures of experts, a token and an expert at a time.

Sources: Gated Delta Networks (arXiv 2412.06464), equation 10, without the chunks that make it fast; transformers 5,
modeling_qwen3_5.py and modeling_qwen3_moe.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from converters.own_reading.layers import Weights, rms, sigmoid, silu
from converters.own_reading.rotary import Array

_TINY = 1e-6


def delta_rule(x: Array, at: str, config: Mapping[str, Any], weights: Weights) -> Array:
    """Linear attention: x (T, D) -> (T, D). at: name of the layer."""
    keys, values = config.get("linear_num_key_heads", 16), config.get("linear_num_value_heads", 32)
    key_size, value_size = config.get("linear_key_head_dim", 128), config.get("linear_value_head_dim", 128)
    mixed = silu(_convolved(weights.linear(x, f"{at}.in_proj_qkv"), weights.vector(f"{at}.conv1d.weight")[:, 0]))
    q, k, v = np.split(mixed, [keys * key_size, 2 * keys * key_size], axis=1)
    # Each head of queries and keys serves the next values / keys heads of values.
    q, k = (np.repeat(_unit(part.reshape(len(x), keys, key_size)), values // keys, axis=1) for part in (q, k))
    step = np.logaddexp(0, weights.linear(x, f"{at}.in_proj_a") + weights.vector(f"{at}.dt_bias"))
    kept = np.exp(-np.exp(weights.vector(f"{at}.A_log")) * step)
    written = sigmoid(weights.linear(x, f"{at}.in_proj_b"))
    memory = np.zeros((values, key_size, value_size))
    read = np.zeros((len(x), values, value_size), np.float32)
    for token, value in enumerate(v.reshape(len(x), values, value_size)):
        memory *= kept[token][:, None, None]
        known = np.einsum("hk,hkv->hv", k[token], memory)
        memory += np.einsum("hk,hv->hkv", k[token], written[token][:, None] * (value - known))
        read[token] = np.einsum("hk,hkv->hv", q[token] / math.sqrt(key_size), memory)
    gate = silu(weights.linear(x, f"{at}.in_proj_z")).reshape(read.shape)
    normed = rms(read, weights.vector(f"{at}.norm.weight"), config.get("rms_norm_eps", 1e-6)) * gate
    return weights.linear(normed.reshape(len(x), -1), f"{at}.out_proj")


def experts(x: Array, at: str, config: Mapping[str, Any], weights: Weights) -> Array:
    """A mixture of experts, of which a router chooses some for each token: x (T, D) -> (T, D). at: name of the MLP."""
    shared = config["model_type"] == "qwen3_5_moe"
    scores = weights.linear(x, f"{at}.gate")
    chances = np.exp(scores - scores.max(axis=1, keepdims=True))
    chances /= chances.sum(axis=1, keepdims=True)
    chosen = np.argsort(-chances, axis=1)[:, : config.get("num_experts_per_tok", 8)]
    shares = np.take_along_axis(chances, chosen, axis=1)
    if shared or config.get("norm_topk_prob", False):
        shares /= shares.sum(axis=1, keepdims=True)
    found = np.zeros_like(x)
    for number in np.unique(chosen):
        token, place = np.nonzero(chosen == number)
        gate, up, down = (
            weights.expert(f"{at}.switch_mlp.{part}_proj", int(number)) for part in ("gate", "up", "down")
        )
        inner = silu(x[token] @ gate.T) * (x[token] @ up.T)
        found[token] += inner @ down.T * shares[token, place][:, None]
    if shared:
        common = gated_mlp(x, f"{at}.shared_expert", weights, silu)
        found = found + sigmoid(weights.linear(x, f"{at}.shared_expert_gate")) * common
    return found


def gated_mlp(x: Array, at: str, weights: Weights, activation: Any) -> Array:
    """x (T, D) -> (T, D). at: name of the MLP."""
    gate = activation(weights.linear(x, f"{at}.gate_proj"))
    return weights.linear(gate * weights.linear(x, f"{at}.up_proj"), f"{at}.down_proj")


def _convolved(x: Array, kernel: Array) -> Array:
    """A causal convolution of each channel: x (T, C), kernel (C, K) -> (T, C)."""
    width = kernel.shape[1]
    padded = np.concatenate([np.zeros((width - 1, x.shape[1]), x.dtype), x])
    return sum((padded[at : at + len(x)] * kernel[:, at] for at in range(width)), np.zeros_like(x))


def _unit(x: Array) -> Array:
    return x / np.sqrt((x * x).sum(axis=-1, keepdims=True) + np.float32(_TINY))
