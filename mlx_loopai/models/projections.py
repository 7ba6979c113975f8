"""Adapted linear layers that read the same input, as one function with its own backward pass: for the compiled step."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Protocol

import mlx.core as mx
import mlx.nn as nn


class Adapter(Protocol):
    """What is read of a LoRA layer: y = linear(x) + scale (x A) B."""

    linear: nn.Module
    scale: float
    lora_a: mx.array
    lora_b: mx.array


def project_jointly(adapters: Sequence[Adapter], x: mx.array) -> list[mx.array]:
    """The outputs (..., D_out) of `adapters` for x (..., D_in); gradients reach x and the factors.

    There are fewer and better shaped products than layer by layer: one with all first factors, forward and backward,
    and every narrow product is narrow in its rows (on CPU a product with 8 columns takes three times as long). The
    layers' gradients at x are added up inside the products. The factors' gradients are computed before anything below
    x, so that their cotangents are freed while the backward pass goes on.
    """
    count = len(adapters)
    ends = list(accumulate(adapter.lora_a.shape[1] for adapter in adapters))[:-1]

    def forward(x: mx.array, *factors: mx.array) -> tuple[mx.array, ...]:
        flat = _flat(x)
        low = _down(factors[:count], flat) @ flat.T
        parts = zip(adapters, _cut(low, ends), _ups(adapters, factors[count:], flat), strict=True)
        outputs = [mx.addmm(adapter.linear(flat), part.T, up) for adapter, part, up in parts]
        return tuple(output.reshape(*x.shape[:-1], -1) for output in outputs)

    run = mx.custom_function(forward)

    @run.vjp
    def backward(
        primals: Sequence[mx.array], cotangents: Sequence[mx.array], _: Sequence[mx.array]
    ) -> tuple[mx.array, ...]:
        x, *factors = primals
        flat, pulls = _flat(x), [_flat(cotangent) for cotangent in cotangents]
        down, ups = _down(factors[:count], flat), _ups(adapters, factors[count:], flat)
        low = _cut(down @ flat.T, ends)
        low_pull = mx.concatenate([up @ pull.T for up, pull in zip(ups, pulls, strict=True)])
        of_a = [part.astype(mx.float32).T for part in _cut(low_pull @ flat, ends)]
        of_b = [
            adapter.scale * (part @ pull).astype(mx.float32)
            for adapter, part, pull in zip(adapters, low, pulls, strict=True)
        ]
        total = low_pull.T @ down
        for adapter, pull in zip(adapters, pulls, strict=True):
            total = _plus_pull(total, adapter.linear, pull, flat)
        (total,) = mx.depends([total], [*of_a, *of_b])
        return (total.reshape(x.shape), *of_a, *of_b)

    factors = [adapter.lora_a for adapter in adapters] + [adapter.lora_b for adapter in adapters]
    return list(run(x, *factors))


def _flat(x: mx.array) -> mx.array:
    return x.reshape(-1, x.shape[-1])


def _down(factors: Sequence[mx.array], x: mx.array) -> mx.array:
    """The first factors (D_in, R) as the rows of one matrix, in the dtype of `x`."""
    return mx.concatenate([factor.T for factor in factors]).astype(x.dtype)


def _ups(adapters: Sequence[Adapter], factors: Sequence[mx.array], x: mx.array) -> list[mx.array]:
    """The second factors (R, D_out), scaled, in the dtype of `x`."""
    return [(adapter.scale * factor).astype(x.dtype) for adapter, factor in zip(adapters, factors, strict=True)]


def _cut(rows: mx.array, ends: list[int]) -> list[mx.array]:
    return mx.split(rows, ends) if ends else [rows]


def _plus_pull(total: mx.array, linear: nn.Module, pull: mx.array, x: mx.array) -> mx.array:
    """`total` (N, D_in) plus the gradient at x of `linear(x)` for the cotangent `pull` (N, D_out)."""
    if isinstance(linear, nn.QuantizedLinear):
        _, (found,) = mx.vjp(linear, [x], [pull])
        return total + found
    return mx.addmm(total, pull, linear.weight)
