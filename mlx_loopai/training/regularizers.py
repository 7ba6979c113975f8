"""Penalties on the adapter's update: what it costs to move what general ability needs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_loopai.models.lora import LoRALinear, lora_modules
from mlx_loopai.training.dense_importance import DenseImportance, update_of
from mlx_loopai.training.importance import Importance


def kronecker_penalty(importance: Importance) -> Callable[[nn.Module], mx.array]:
    """The function model -> sum_l c_l sum_ij u_i v_j DW_ij^2, exact and without a dense matrix.

    With DW = s (A B)^T for A (D_in, R) and B (R, D_out), the inner sum is
    s^2 sum((A^T diag(v) A) * (B diag(u) B^T)): O((D_in + D_out) R^2) a layer. Anchored at the base, where DW = 0.

    Source: element-wise regularisation of arXiv 2501.13669 (section 4.2), with rank-1 importance.
    """

    def term(name: str, layer: LoRALinear) -> mx.array:
        return weighted_square(layer, importance.output[name], importance.input[name])

    return partial(_over_layers, importance, term)


def sketch_penalty(importance: Importance) -> Callable[[nn.Module], mx.array]:
    """The function model -> sum_l c_l sum_i u_i mean_t (DW x_t)_i^2 over the stored general activations x_t.

    What `kronecker_penalty` is with the full input covariance in place of its diagonal: a low-rank update moves along
    directions that general inputs share, and the diagonal cannot see them (docs/experiments.md). Exact in x and
    without a dense matrix: with Z = X A for the activations X (N, D_in), the inner sum is
    s^2 tr(Z^T Z / N  B diag(u) B^T), O(N R D_in + R^2 D_out) a layer. Anchored at the base.
    """

    def term(name: str, layer: LoRALinear) -> mx.array:
        return weighted_drift(layer, importance.output[name], importance.activations[name])

    return partial(_over_layers, importance, term)


def dense_penalty(importance: DenseImportance) -> Callable[[nn.Module], mx.array]:
    """The function model -> sum_l c_l sum_ij Omega_ij (DW_ij - DW*_ij)^2, with DW* the anchor.

    Builds one dense matrix a layer: for comparison with the two above.
    """

    def term(name: str, layer: LoRALinear) -> mx.array:
        moved = update_of(layer)
        if name in importance.anchor:
            moved = moved - update_of(layer, importance.anchor[name])
        return (importance.omega[name] * mx.square(moved)).sum()

    return partial(_over_layers, importance, term)


PENALTIES: dict[str, Callable[[Any], Callable[[nn.Module], mx.array]]] = {
    "kronecker": kronecker_penalty,
    "sketch": sketch_penalty,
    "hierarchical": dense_penalty,
    "fisher": dense_penalty,
    "hlora": dense_penalty,
}


def read_importance(path: Path) -> Importance | DenseImportance:
    """What a run measured, in whichever form its penalty has."""
    _, metadata = mx.load(str(path), return_metadata=True)
    return DenseImportance.load(path) if metadata.get("form") == "dense" else Importance.load(path)


def _over_layers(
    importance: Importance | DenseImportance, term: Callable[[str, LoRALinear], mx.array], model: nn.Module
) -> mx.array:
    terms = [importance.coefficients[name] * term(name, layer) for name, layer in lora_modules(model).items()]
    return mx.stack(terms).sum()


def weighted_drift(layer: LoRALinear, output: mx.array, activations: mx.array) -> mx.array:
    """sum_i u_i mean_t (DW x_t)_i^2 of one layer; `output` u (D_out,), `activations` (N, D_in)."""
    # In the activations' dtype: a float32 copy of all of them would double what the penalty keeps.
    low = (activations @ layer.lora_a.astype(activations.dtype)).astype(mx.float32)
    inner = low.T @ low / len(low)
    outer = (layer.lora_b * output) @ layer.lora_b.T
    return layer.scale**2 * (inner * outer).sum()


def weighted_square(layer: LoRALinear, output: mx.array, input_: mx.array) -> mx.array:
    """sum_ij u_i v_j DW_ij^2 of one layer; `output` u (D_out,), `input_` v (D_in,)."""
    a, b = layer.lora_a, layer.lora_b
    inner = (a * input_[:, None]).T @ a
    outer = (b * output) @ b.T
    return layer.scale**2 * (inner * outer).sum()
