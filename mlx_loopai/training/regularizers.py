"""Penalties on the adapter's update: what it costs to move what general ability needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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

    stacks = [_Stack.of(importance, rows) for rows in _alike(importance)]

    def penalty(model: nn.Module) -> mx.array:
        layers = lora_modules(model)
        return mx.stack([stack.drift(layers) for stack in stacks]).sum()

    return penalty


@dataclass(frozen=True)
class _Stack:
    """Layers of equal shapes, computed together: a step has time for few operations, not for some per layer.

    names: L rows of M layers that read the same input; activations (L, N, D_in); outputs: c_l u_l (L, 1, D_out) for
    each of the M.
    """

    names: list[list[str]]
    activations: mx.array
    outputs: list[mx.array]

    @staticmethod
    def of(importance: Importance, names: list[list[str]]) -> _Stack:
        activations = mx.stack([importance.activations[row[0]] for row in names])
        outputs = [
            mx.stack([importance.coefficients[name] * importance.output[name] for name in column])[:, None]
            for column in zip(*names, strict=True)
        ]
        mx.eval(activations, outputs)
        return _Stack(names, activations, outputs)

    def drift(self, layers: dict[str, LoRALinear]) -> mx.array:
        """sum_l c_l sum_i u_i mean_t (DW x_t)_i^2 over the layers of this stack."""
        first = layers[self.names[0][0]]
        a = mx.stack([mx.concatenate([layers[name].lora_a for name in row], axis=1) for row in self.names])
        # In the activations' dtype: a float32 copy of all of them would double what the penalty keeps.
        low = (self.activations @ a.astype(self.activations.dtype)).astype(mx.float32)
        inner = mx.swapaxes(low, 1, 2) @ low / low.shape[1]
        total, rank = mx.zeros(()), first.lora_a.shape[1]
        for column, output in enumerate(self.outputs):
            b = mx.stack([layers[row[column]].lora_b for row in self.names])
            own = slice(column * rank, (column + 1) * rank)
            total = total + (inner[:, own, own] * ((b * output) @ mx.swapaxes(b, 1, 2))).sum()
        return first.scale**2 * total


def _alike(importance: Importance) -> list[list[list[str]]]:
    """Layers in rows that read the same input, and rows of equal shapes together."""
    readers: dict[int, list[str]] = {}
    for name, array in importance.activations.items():
        readers.setdefault(id(array), []).append(name)
    alike: dict[tuple[int, ...], list[list[str]]] = {}
    for row in readers.values():
        sizes = (importance.input[row[0]].size, *(importance.output[name].size for name in row))
        alike.setdefault(sizes, []).append(row)
    return list(alike.values())


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


def weighted_square(layer: LoRALinear, output: mx.array, input_: mx.array) -> mx.array:
    """sum_ij u_i v_j DW_ij^2 of one layer; `output` u (D_out,), `input_` v (D_in,)."""
    a, b = layer.lora_a, layer.lora_b
    inner = (a * input_[:, None]).T @ a
    outer = (b * output) @ b.T
    return layer.scale**2 * (inner * outer).sum()
