"""Adam that stores its moments in 8 bits between steps, in a quarter of the memory of float32.

Source: 8-bit optimizers by block-wise quantisation, arXiv 2110.02861: one scale per block of entries (section 2.1) and
dynamic tree quantisation (section 2.2). Ours differs in three ways.
- A value gets the code of the cell that it falls in. The paper takes the nearest code; the two differ only at the edges
  of decades.
- The scale of a block is its largest entry with its sign, so that this entry is exact.
- The root of the second moment is stored, and no code of it stands for 0. An entry whose second moment is rounded to 0
  would be divided by almost nothing (the zero-point problem of arXiv 2309.01507, section 4.1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import mlx.core as mx
import mlx.optimizers as optimizers
import numpy as np

# Entries that share a scale. Smaller than the paper's 2048, as its later releases have it.
BLOCK = 256
CODES = 256


@dataclass(frozen=True)
class Codebook:
    """256 values of [-1, 1] or (0, 1]: decades down from 1, each with half the cells of the one above it.

    decades: how many there are; signed: whether there are codes for negative values and for 0.
    """

    decades: int
    signed: bool

    @cached_property
    def values(self) -> mx.array:
        """(256,) float32: what each code stands for."""
        edges = [np.linspace(0.1, 1, 2**level + 1) / 10 ** (self.decades - 1 - level) for level in range(self.decades)]
        cells = np.concatenate([(edge[1:] + edge[:-1]) / 2 for edge in edges])
        if self.signed:
            return mx.array(np.concatenate([[0.0], cells, [1.0], -cells]).astype(np.float32))
        return mx.array(np.append(cells, 1.0).astype(np.float32))

    def codes(self, values: mx.array) -> mx.array:
        """The codes of `values` (uint8, same shape), which lie in [-1, 1], or in [0, 1] for an unsigned codebook."""
        size = mx.abs(values)
        decade = mx.clip(mx.floor(-mx.log10(size)), 0, self.decades - 1)
        cells = mx.power(2.0, self.decades - 1 - decade)
        cell = mx.clip(mx.floor((size * mx.power(10.0, decade) - 0.1) * (cells / 0.9)), 0, cells - 1)
        top = 2.0**self.decades - 1
        place = mx.where(size >= 1, top, cells - 1 + cell)
        if self.signed:
            # Code 0 is the value 0. The positive values follow, then the negative ones, which have no -1.
            place = mx.where(values < 0, top + 2 + mx.minimum(place, top - 1), place + 1)
            place = mx.where(size < 10.0**-self.decades, 0.0, place)
        return place.astype(mx.uint8)


MOMENT, ROOT = Codebook(decades=7, signed=True), Codebook(decades=8, signed=False)


def quantized(array: mx.array, book: Codebook) -> tuple[mx.array, mx.array]:
    """(codes (N, 256) uint8, scales (N, 1) float32) of an array of any shape, laid out in blocks, padded with zeros."""
    flat = array.reshape(-1)
    blocks = mx.pad(flat, (0, -flat.size % BLOCK)).reshape(-1, BLOCK)
    scales = mx.take_along_axis(blocks, mx.argmax(mx.abs(blocks), axis=-1, keepdims=True), axis=-1)
    return book.codes(blocks / mx.where(scales == 0, 1.0, scales)), scales


def restored(codes: mx.array, scales: mx.array, book: Codebook, shape: tuple[int, ...]) -> mx.array:
    """The array of `shape`, float32, that codes and scales stand for."""
    size = int(np.prod(shape))
    return (book.values[codes] * scales).reshape(-1)[:size].reshape(shape)


def _empty(parameter: mx.array) -> dict[str, Any]:
    found = {}
    for name, book in (("m", MOMENT), ("r", ROOT)):
        found[name], found[f"{name}_scale"] = quantized(mx.zeros(parameter.shape), book)
    return found


_Apply = Callable[[mx.array, mx.array, dict[str, Any]], mx.array]


def _apply(adam: _Apply, gradient: mx.array, parameter: mx.array, state: dict[str, Any]) -> mx.array:
    """The parameter after a step of `adam`, which reads and writes moments in float32; `state` holds them in 8 bits."""
    shape = parameter.shape
    root = restored(state["r"], state["r_scale"], ROOT, shape)
    whole = {"m": restored(state["m"], state["m_scale"], MOMENT, shape), "v": mx.square(root)}
    changed = adam(gradient, parameter, whole)
    state["m"], state["m_scale"] = quantized(whole["m"], MOMENT)
    state["r"], state["r_scale"] = quantized(mx.sqrt(whole["v"]), ROOT)
    return changed


class EightBitAdam(optimizers.Adam):
    """`mlx.optimizers.Adam` with moments of 8 bits."""

    def init_single(self, parameter: mx.array, state: dict[str, Any]) -> None:
        state.update(_empty(parameter))

    def apply_single(self, gradient: mx.array, parameter: mx.array, state: dict[str, Any]) -> mx.array:
        return _apply(super().apply_single, gradient, parameter, state)


class EightBitAdamW(optimizers.AdamW):
    """`mlx.optimizers.AdamW` with moments of 8 bits."""

    def init_single(self, parameter: mx.array, state: dict[str, Any]) -> None:
        state.update(_empty(parameter))

    def apply_single(self, gradient: mx.array, parameter: mx.array, state: dict[str, Any]) -> mx.array:
        return _apply(super().apply_single, gradient, parameter, state)
