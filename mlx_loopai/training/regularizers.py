"""Penalties on the adapter's update: what it costs to move what general ability needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
        """sum_l c_l sum_i u_i mean_t (DW x_t)_i^2 over the layers of this stack; the gradient comes with it.

        With Z = X A and K = B diag(c u) B^T the gradients are 2 s^2 X^T Z K / N and 2 s^2 (Z^T Z / N) B diag(c u): half
        the operations of taking them back through the sum.
        """
        names = [name for row in self.names for name in row]
        scale = layers[names[0]].scale ** 2

        def forward(*factors: mx.array) -> tuple[mx.array, ...]:
            value, pulls_a, pulls_b = self._with_gradients(factors[: len(names)], factors[len(names) :])
            return (scale * value, *(2 * scale * pull for pull in (pulls_a, *pulls_b)))

        drift = mx.custom_function(forward)

        @drift.vjp
        def backward(
            primals: Sequence[mx.array], cotangents: Sequence[mx.array], outputs: Sequence[mx.array]
        ) -> tuple[mx.array, ...]:
            height, width = len(self.names), len(self.names[0])
            pulls_a, *pulls_b = (cotangents[0] * output for output in outputs[1:])
            columns = mx.split(pulls_a, width, axis=2)
            places = [(row, column) for row in range(height) for column in range(width)]
            return (*(columns[c][r] for r, c in places), *(pulls_b[c][r] for r, c in places))

        factors = [layers[name].lora_a for name in names] + [layers[name].lora_b for name in names]
        return drift(*factors)[0]

    def _with_gradients(
        self, a: Sequence[mx.array], b: Sequence[mx.array]
    ) -> tuple[mx.array, mx.array, list[mx.array]]:
        """The drift at scale 1, and half its gradients: (L, D_in, M R) for all `a`, (L, R, D_out) a column of `b`."""
        width, rank, x = len(self.outputs), a[0].shape[1], self.activations
        stacked = mx.stack([mx.concatenate(list(a[at : at + width]), axis=1) for at in range(0, len(a), width)])
        # In the activations' dtype: a float32 copy of all of them would double what the penalty keeps.
        low = (x @ stacked.astype(x.dtype)).astype(mx.float32)
        value, mixed, pulls_b = mx.zeros(()), [], []
        for column, output in enumerate(self.outputs):
            own = low[:, :, column * rank : (column + 1) * rank]
            up = mx.stack(list(b[column::width]))
            inner, weighted = mx.swapaxes(own, 1, 2) @ own / own.shape[1], up * output
            outer = weighted @ mx.swapaxes(up, 1, 2)
            value = value + (inner * outer).sum()
            mixed.append(own @ outer / own.shape[1])
            pulls_b.append(inner @ weighted)
        pull_a = mx.swapaxes(x, 1, 2) @ mx.concatenate(mixed, axis=2).astype(x.dtype)
        return value, pull_a.astype(mx.float32), pulls_b


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

    For comparison with the two above. Its gradient comes with its value: one layer's dense matrices are alive at once.
    """

    def term(name: str, layer: LoRALinear) -> mx.array:
        def forward(a: mx.array, b: mx.array) -> tuple[mx.array, mx.array, mx.array]:
            moved = update_of(layer, (a, b))
            if name in importance.anchor:
                moved = moved - update_of(layer, importance.anchor[name])
            pull = importance.omega[name] * moved
            rate = 2 * layer.scale
            return (pull * moved).sum(), rate * pull.T @ b.T, rate * a.T @ pull.T

        square = mx.custom_function(forward)

        @square.vjp
        def backward(
            primals: Sequence[mx.array], cotangents: Sequence[mx.array], outputs: Sequence[mx.array]
        ) -> tuple[mx.array, mx.array]:
            return cotangents[0] * outputs[1], cotangents[0] * outputs[2]

        return square(layer.lora_a, layer.lora_b)[0]

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
