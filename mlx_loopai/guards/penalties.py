"""Penalties on the adapter's update: what it costs to move what general ability needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_loopai.guards.dense_importance import DenseImportance, update_of
from mlx_loopai.guards.importance import Importance
from mlx_loopai.models.lora import LoRALinear, lora_modules


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
    without a dense update: with C = X^T X / N for the activations X (N, D_in), the inner sum is
    s^2 tr(A^T C A  B diag(u) B^T). C A costs O(min(D_in, 2 N) R D_in) a layer, the rest O((D_in + D_out) R^2).
    Anchored at the base.
    """

    stacks = [_Stack.of(importance, rows) for rows in _alike(importance)]

    def penalty(model: nn.Module) -> mx.array:
        layers = lora_modules(model)
        return mx.stack([stack.drift(layers) for stack in stacks]).sum()

    return penalty


@dataclass(frozen=True)
class _Stack:
    """Layers of equal shapes, computed together: a step has time for few operations, not for some per layer.

    names: L rows of M layers that read the same input; covariance: C A (L, D_in, R) of A (L, D_in, R), where C is that
    of the inputs of each row; outputs: c_l u_l (L, 1, D_out) for each of the M.
    """

    names: list[list[str]]
    covariance: Callable[[mx.array], mx.array]
    outputs: list[mx.array]

    @staticmethod
    def of(importance: Importance, names: list[list[str]]) -> _Stack:
        outputs = [
            mx.stack([importance.coefficients[name] * importance.output[name] for name in column])[:, None]
            for column in zip(*names, strict=True)
        ]
        mx.eval(outputs)
        return _Stack(names, _covariance(mx.stack([importance.activations[row[0]] for row in names])), outputs)

    def drift(self, layers: dict[str, LoRALinear]) -> mx.array:
        """sum_l c_l sum_i u_i mean_t (DW x_t)_i^2 over the layers of this stack; the gradient comes with it.

        With K = B diag(c u) B^T the gradients are 2 s^2 C A K and 2 s^2 (A^T C A) B diag(c u): half the operations of
        taking them back through the sum.
        """
        names = [name for row in self.names for name in row]
        scale = layers[names[0]].scale ** 2
        width = len(self.outputs)

        def forward(*factors: mx.array) -> tuple[mx.array, ...]:
            value, pulls = self._with_gradients(factors[: len(names)], factors[len(names) :])
            return (scale * value, *(2 * scale * pull for pull in pulls))

        drift = mx.custom_function(forward)

        @drift.vjp
        def backward(
            primals: Sequence[mx.array], cotangents: Sequence[mx.array], outputs: Sequence[mx.array]
        ) -> tuple[mx.array, ...]:
            pulls = [cotangents[0] * output for output in outputs[1:]]
            return tuple(
                column[row]
                for of_factor in (pulls[:width], pulls[width:])
                for row in range(len(self.names))
                for column in of_factor
            )

        factors = [layers[name].lora_a for name in names] + [layers[name].lora_b for name in names]
        return drift(*factors)[0]

    def _with_gradients(self, a: Sequence[mx.array], b: Sequence[mx.array]) -> tuple[mx.array, list[mx.array]]:
        """The drift at scale 1, and half its gradients: M of (L, D_in, R) for all `a`, M of (L, R, D_out) for `b`."""
        value, pulls_a, pulls_b = mx.zeros(()), [], []
        for column, output in enumerate(self.outputs):
            down = mx.stack(list(a[column :: len(self.outputs)]))
            up = mx.stack(list(b[column :: len(self.outputs)]))
            moved, weighted = self.covariance(down), up * output
            inner, outer = mx.swapaxes(down, 1, 2) @ moved, weighted @ mx.swapaxes(up, 1, 2)
            value = value + (inner * outer).sum()
            pulls_a.append(moved @ outer)
            pulls_b.append(inner @ weighted)
        return value, pulls_a + pulls_b


def _covariance(activations: mx.array) -> Callable[[mx.array], mx.array]:
    """A (L, D, R) -> X^T X A / N of activations X (L, N, D), by whichever of X^T X and X is less work."""
    _, count, size = activations.shape
    if size < 2 * count:
        wide = activations.astype(mx.float32)
        square = mx.swapaxes(wide, 1, 2) @ wide / count
        mx.eval(square)
        return lambda a: square @ a
    mx.eval(activations)

    def through(a: mx.array) -> mx.array:
        # In the activations' dtype: a float32 copy of all of them would double what the penalty keeps.
        seen = activations @ a.astype(activations.dtype)
        return (mx.swapaxes(activations, 1, 2) @ seen).astype(mx.float32) / count

    return through


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
