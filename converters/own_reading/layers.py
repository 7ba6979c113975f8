"""Weights that are read when they are needed, and the layers that all models share."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from converters.own_reading.rotary import Array
from converters.tensors import TensorEntry, to_float32


class Weights:
    """The tensors by name, read when asked for."""

    def __init__(self, entries: Mapping[str, TensorEntry]) -> None:
        self._entries = entries

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def vector(self, name: str) -> Array:
        entry = self._entries[name]
        return to_float32(entry.load(), entry.dtype)

    def rows(self, name: str, numbers: Array) -> Array:
        """The rows with these numbers (T, D)."""
        entry = self._entries[name]
        return to_float32(np.concatenate([entry.read_rows(int(n), int(n) + 1) for n in numbers]), entry.dtype)

    def expert(self, module: str, number: int) -> Array:
        """The matrix (D_out, D_in) of one of the experts that are stacked in a tensor."""
        entry = self._entries[f"{module}.weight"]
        size = entry.shape[1]
        return to_float32(entry.read_rows(number * size, (number + 1) * size), entry.dtype).reshape(entry.shape[1:])

    def linear(self, x: Array, module: str) -> Array:
        """x (T, D_in) -> (T, D_out), with the bias if the file has one."""
        entry = self._entries[f"{module}.weight"]
        parts = [x @ to_float32(entry.read_rows(start, stop), entry.dtype).T for start, stop in entry.spans()]
        out = np.concatenate(parts, axis=1)
        return out + self.vector(f"{module}.bias") if f"{module}.bias" in self else out


def attention(q: Array, k: Array, v: Array, window: int | None, scalar: float | None = None) -> Array:
    """Causal attention of heads: q (H, T, D), k and v (K, T, D) -> (T, H * D). scalar: what scores are divided by the
    root of; D where it is None.
    """
    groups = q.shape[0] // k.shape[0]
    k, v = np.repeat(k, groups, axis=0), np.repeat(v, groups, axis=0)
    scores = q @ k.swapaxes(1, 2) / np.float32(math.sqrt(q.shape[-1] if scalar is None else scalar))
    back = np.arange(q.shape[1])[:, None] - np.arange(q.shape[1])
    seen = (back >= 0) & (back < (window or q.shape[1]))
    scores = np.where(seen, scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return (weights @ v).swapaxes(0, 1).reshape(q.shape[1], -1)


def heads(x: Array, count: int) -> Array:
    """(T, H * D) -> (H, T, D)."""
    return x.reshape(x.shape[0], count, -1).swapaxes(0, 1)


def rms(x: Array, weight: Array, eps: float) -> Array:
    """RMSNorm over the last dimension."""
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + np.float32(eps)) * weight


def silu(x: Array) -> Array:
    """x times its sigmoid."""
    return x * sigmoid(x)


def sigmoid(x: Array) -> Array:
    """Between 0 and 1."""
    return 1 / (1 + np.exp(-np.clip(x, -80, None)))


def gelu(x: Array) -> Array:
    """Its tanh approximation."""
    return 0.5 * x * (1 + np.tanh(np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x**3)))
