"""Penalties on the adapter's update: what it costs to move what general ability needs."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn

from mlx_loopai.models.lora import LoRALinear, lora_modules
from mlx_loopai.training.importance import Importance


def kronecker_penalty(importance: Importance) -> Callable[[nn.Module], mx.array]:
    """The function model -> sum_l c_l sum_ij u_i v_j DW_ij^2, exact and without a dense matrix.

    With DW = s (A B)^T for A (D_in, R) and B (R, D_out), the inner sum is
    s^2 sum((A^T diag(v) A) * (B diag(u) B^T)): O((D_in + D_out) R^2) a layer. Anchored at the base, where DW = 0.

    Source: element-wise regularisation of arXiv 2501.13669 (section 4.2), with rank-1 importance.
    """

    def penalty(model: nn.Module) -> mx.array:
        terms = [
            importance.coefficients[name] * weighted_square(layer, importance.output[name], importance.input[name])
            for name, layer in lora_modules(model).items()
        ]
        return mx.stack(terms).sum()

    return penalty


def weighted_square(layer: LoRALinear, output: mx.array, input_: mx.array) -> mx.array:
    """sum_ij u_i v_j DW_ij^2 of one layer; `output` u (D_out,), `input_` v (D_in,)."""
    a, b = layer.lora_a, layer.lora_b
    inner = (a * input_[:, None]).T @ a
    outer = (b * output) @ b.T
    return layer.scale**2 * (inner * outer).sum()
