"""A harmless change to a model: its matrices rounded to 8 bits and back, to see how far answers move by themselves."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

BITS, GROUP_SIZE = 8, 64


def can_be_rounded(model: nn.Module) -> bool:
    """Whether its matrices are dense, so that rounding them changes something, and little."""
    return not any(isinstance(module, nn.QuantizedLinear) for module in model.modules())


def round_weights(model: nn.Module) -> None:
    """Round the matrices of `model` to 8 bits in groups of 64, in place; other widths than its multiples stay exact.

    The products stay dense: quantised ones are slow on CPU, and the rounding is all that is wanted.
    """
    for module in model.modules():
        if not isinstance(module, nn.Linear | nn.Embedding) or module.weight.shape[-1] % GROUP_SIZE:
            continue
        parts = mx.quantize(module.weight, GROUP_SIZE, BITS)
        module.weight = mx.dequantize(*parts, GROUP_SIZE, BITS).astype(module.weight.dtype)
        mx.eval(module.weight)
