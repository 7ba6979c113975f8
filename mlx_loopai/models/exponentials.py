"""Exponentials that are fast on either backend: MLX's own take three times as long on CPU, where `power` is libm's."""

from __future__ import annotations

import math

import mlx.core as mx


def exp(x: mx.array) -> mx.array:
    """e^x; 0 at minus infinity."""
    return mx.exp(x) if _is_fast(x) else mx.power(2.0, math.log2(math.e) * x)


def sigmoid(x: mx.array) -> mx.array:
    """The logistic function of x."""
    return mx.sigmoid(x) if _is_fast(x) else _sigmoid_by_power(x)


def silu(x: mx.array) -> mx.array:
    """x times its logistic function."""
    return x * sigmoid(x)


def _is_fast(x: mx.array) -> bool:
    return mx.metal.is_available() or x.dtype != mx.float32


@mx.custom_function
def _sigmoid_by_power(x: mx.array) -> mx.array:
    return 1 / (1 + mx.power(2.0, -math.log2(math.e) * x))


@_sigmoid_by_power.vjp
def _sigmoid_pulled(_: mx.array, cotangent: mx.array, found: mx.array) -> mx.array:
    # In closed form: where the power overflows, its own derivative would be 0 times infinity.
    return cotangent * found * (1 - found)
