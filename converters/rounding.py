"""The largest error that a quantised form may make, derived from the form's definition and not from its code.

Each group of a row has one scale. A weight inside the scale's reach is off by at most half of the grid's widest step;
one beyond it, by its distance from the reach. What follows bounds both from the weights of the group alone, and adds
what storing the scale in a narrow type moves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from converters.tensors import ROUNDING

# Relative error of the float32 arithmetic, far below every quantisation step.
_ARITHMETIC = np.float32(1e-5)
_F16 = ROUNDING["F16"]
_MX_PEAK = {4: 6.0, 8: 448.0}
# Half of the widest step: between 4 and 6 of E2M1, between 416 and 448 of E4M3.
_MX_HALF_STEP = {4: 1.0, 8: 16.0}


@dataclass(frozen=True)
class Rounding:
    """What a quantised form does to float32 rows: `apply` gives them as they read back, `bound` the largest error of
    each weight by the form's definition. Both keep the shape. `apply` is None where only another program has the form.
    """

    apply: Callable[[np.ndarray], np.ndarray] | None
    bound: Callable[[np.ndarray], np.ndarray]


def _grouped(rows: np.ndarray, size: int) -> np.ndarray:
    return rows.reshape(len(rows), -1, size)


def _within(rows: np.ndarray, half: np.ndarray, beyond: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The larger of half a step and the distance beyond the reach, plus `other` and the arithmetic's error."""
    peak = np.abs(_grouped(rows, rows.shape[1] // half.shape[1])).max(axis=-1, keepdims=True)
    return (np.maximum(half, beyond) + other + _ARITHMETIC * peak).reshape(rows.shape)


def affine_bound(rows: np.ndarray, bits: int, group_size: int, dtype: str) -> np.ndarray:
    """MLX's affine form: 2^bits levels from the end of the group that is farther from 0, which is hit exactly.

    The step is then changed so that 0 is a level too: stretched by levels / (levels - 1) at most, or shrunk, and then
    the other end may lie beyond the last level by up to a step. The scale is rounded to `dtype`.
    """
    groups = _grouped(rows, group_size)
    low, high = groups.min(axis=-1, keepdims=True), groups.max(axis=-1, keepdims=True)
    levels = 2**bits - 1
    step = np.maximum((high - low) / levels, np.float32(1e-7))
    far = np.where(np.abs(low) > np.abs(high), low, high)
    relative, absolute = ROUNDING[dtype]
    step_after = step * levels / (levels - 1)
    stored = levels * (relative * step_after + absolute)
    return _within(rows, step_after / 2, np.abs(groups - far) - (levels - 1) * step, stored)


def mx_bound(rows: np.ndarray, bits: int, group_size: int, dtype: str) -> np.ndarray:
    """mxfp4 and mxfp8: a power of two as scale, the nearest to (largest weight / largest value of the grid).

    It may be smaller by a factor of sqrt(2), then the largest weights lie beyond its reach. MLX divides in `dtype`,
    which matters for weights near the smallest that float16 has.
    """
    groups, top = _grouped(rows, group_size), _MX_PEAK[bits]
    scale, moved = np.abs(groups).max(axis=-1, keepdims=True) / top, np.float32(ROUNDING[dtype][1])
    half = (scale + moved) * np.float32(2**0.5) * _MX_HALF_STEP[bits]
    reach = top * np.maximum(scale - moved, 0) * np.float32(0.5**0.5)
    return _within(rows, half, np.abs(groups) - reach, np.zeros_like(scale))


def nvfp4_bound(rows: np.ndarray, group_size: int = 16) -> np.ndarray:
    """nvfp4: the scale is stored in 8 bits with 3 of mantissa, and in steps of 2^-9 where it is small."""
    groups = _grouped(rows, group_size)
    scale = np.abs(groups).max(axis=-1, keepdims=True) / 6
    moved = np.maximum(scale / 16, np.float32(2.0**-10))
    beyond = np.abs(groups) - 6 * np.minimum(np.maximum(scale - moved, 0), 448)
    return _within(rows, scale + moved, beyond, np.zeros_like(scale))


def k_quant_bound(rows: np.ndarray, bits: int) -> np.ndarray:
    """K-quants: a whole step over the reach of 256 weights, both signs (32 where 256 do not divide a row).

    Their blocks of 32 have finer steps, but scales and offsets of 6 bits between them, and are fitted to the sum of
    squares, so that single weights lie beyond half a step.
    """
    groups = _grouped(rows, 256 if rows.shape[1] % 256 == 0 else 32)
    step = 2 * np.abs(groups).max(axis=-1, keepdims=True) / (2**bits - 1)
    return np.broadcast_to(step + _F16[1], groups.shape).reshape(rows.shape)


def gguf_bound(rows: np.ndarray, bits: int) -> np.ndarray:
    """Q8_0 and Q4_0: groups of 32 and a float16 scale. Q4_0 has one level fewer on the side of the smaller peak."""
    groups = _grouped(rows, 32)
    peak = np.abs(groups).max(axis=-1, keepdims=True)
    top, reach = {8: (127, 127), 4: (8, 7)}[bits]
    step = peak / top
    return _within(rows, step / 2, np.abs(groups) - reach * step, top * (_F16[0] * step + _F16[1]))
