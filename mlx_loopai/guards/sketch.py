"""`penalty.kind: sketch`: stored inputs of general rows give the directions in which a layer's output must not move."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from mlx_loopai.config import PenaltyOptions
from mlx_loopai.guards.guard import Penalty, register
from mlx_loopai.guards.importance import Importance, ImportanceGuard, InputSample
from mlx_loopai.guards.measured import over_layers
from mlx_loopai.memory.guard_terms import GuardTerms
from mlx_loopai.models.lora import LoRALinear, lora_modules
from mlx_loopai.models.updated_linear import UpdatedLinear


@register("sketch")
class Sketch(ImportanceGuard):
    """Importance of every output, and the inputs themselves of some general tokens."""

    def terms(self, options: PenaltyOptions) -> GuardTerms:
        return GuardTerms(adapters=1, vectors=1, activations=options.activations, observes=True)

    def sample(self, options: PenaltyOptions) -> InputSample:
        return InputSample(options.activations, options.opening_share)

    def penalty(self, state: Importance) -> Penalty:
        return sketch_penalty(state)


def sketch_penalty(importance: Importance) -> Penalty:
    """The function model -> sum_l c_l sum_i u_i mean_t (DW x_t)_i^2 over the stored general activations x_t.

    It is `kronecker_penalty` with the full input covariance in place of its diagonal. A low-rank update moves along
    directions that general inputs share, and the diagonal cannot see them (docs/experiments.md).

    It is exact for the stored x_t, and no dense update is built: with C = X^T X / N for the activations X (N, D_in),
    the inner sum is s^2 tr(A^T C A  B diag(u) B^T). C A costs O(min(D_in, 2 N) R D_in) a layer, the rest
    O((D_in + D_out) R^2). For a whole update (`train.method: full`) the sum is computed directly. The penalty is 0 at
    the base.
    """

    stacks: list[_Stack] = []
    whole = _of_whole_updates(importance)

    def penalty(model: nn.Module) -> mx.array:
        layers = lora_modules(model)
        if not layers:
            return whole(model)
        if not stacks:  # built for the first step, which knows the ranks
            stacks.extend(_Stack.of(importance, rows) for rows in _alike(importance, layers))
        return mx.stack([stack.drift(layers) for stack in stacks]).sum()

    return penalty


def _of_whole_updates(importance: Importance) -> Penalty:
    def term(name: str, layer: UpdatedLinear) -> mx.array:
        seen = importance.activations[name]
        moved = (layer.update_matrix().astype(seen.dtype) @ seen.T).astype(mx.float32)
        return (importance.output[name][:, None] * mx.square(moved)).sum() / len(seen)

    return over_layers(importance.coefficients, term)


@dataclass(frozen=True)
class _Stack:
    """Layers of equal shapes, computed together, since a few operations per layer would slow every step down.

    names: L rows of M layers that read the same input; covariance: maps A (L, D_in, R) to C A (L, D_in, R), where C is
    the covariance of each row's inputs; outputs: c_l u_l (L, 1, D_out) for each of the M.
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

        With K = B diag(c u) B^T the gradients are 2 s^2 C A K and 2 s^2 (A^T C A) B diag(c u). That is half the
        operations of automatic differentiation.
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
    """The function A (L, D, R) -> X^T X A / N for activations X (L, N, D).

    It keeps X^T X where that is less work than two products with X.
    """
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


def _alike(importance: Importance, layers: Mapping[str, LoRALinear]) -> list[list[list[str]]]:
    """Groups of rows of layers: a row reads one input and has one rank, and the rows of a group have equal shapes."""
    readers: dict[tuple[int, int], list[str]] = {}
    for name, array in importance.activations.items():
        readers.setdefault((id(array), layers[name].lora_a.shape[1]), []).append(name)
    alike: dict[tuple[int, ...], list[list[str]]] = {}
    for row in readers.values():
        rank = layers[row[0]].lora_a.shape[1]
        sizes = (rank, importance.input[row[0]].size, *(importance.output[name].size for name in row))
        alike.setdefault(sizes, []).append(row)
    return list(alike.values())
