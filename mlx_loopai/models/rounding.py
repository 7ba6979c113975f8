"""Rounds a model's matrices to 8 bits and back: a harmless change, which shows how much scores vary by themselves."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

BITS, GROUP_SIZE = 8, 64


def can_be_rounded(model: nn.Module) -> bool:
    """Whether its matrices are dense, so that rounding them changes something, and little."""
    return not any(isinstance(module, nn.QuantizedLinear) for module in model.modules())


def is_rounded(model: nn.Module) -> bool:
    """Whether `round_weights` changed it."""
    return getattr(model, "is_rounded", False)


def round_weights(model: nn.Module) -> None:
    """Round the matrices of `model` to 8 bits in groups of 64, in place; widths that 64 does not divide stay exact.

    The matrices stay dense: quantised products are slow on CPU, and only the rounding is wanted. A base that is rounded
    is read again before it serves another run (`Base.load`).
    """
    model.is_rounded = True
    for module in model.modules():
        if not isinstance(module, nn.Linear | nn.Embedding) or module.weight.shape[-1] % GROUP_SIZE:
            continue
        parts = mx.quantize(module.weight, GROUP_SIZE, BITS)
        module.weight = mx.dequantize(*parts, GROUP_SIZE, BITS).astype(module.weight.dtype)
        mx.eval(module.weight)
