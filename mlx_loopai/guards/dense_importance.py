"""Importance with one number per weight, and its penalty; shared by the guards fisher, hierarchical and hlora.

A dense Omega is as large as the adapted part of the base in float32. With every linear layer adapted that is nearly the
whole model. The factored form of `guards.importance` needs D_in + D_out numbers a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_loopai.config import PenaltyOptions
from mlx_loopai.files import whole_file
from mlx_loopai.guards.guard import Penalty
from mlx_loopai.guards.measured import MeasuredGuard, over_layers, read_parts
from mlx_loopai.memory.guard_terms import GuardTerms
from mlx_loopai.models.adapters import save_arrays
from mlx_loopai.models.lora import LoRALinear, lora_modules
from mlx_loopai.models.updated_linear import UpdatedLinear

Factors = tuple[mx.array, mx.array]


@dataclass(frozen=True)
class DenseImportance:
    """`omega` (D_out, D_in) and coefficient c_l per layer; `anchor`: the (lora_a, lora_b) at which the penalty is 0.

    Without an anchor it is the base.
    """

    omega: dict[str, mx.array]
    coefficients: dict[str, float]
    tokens: int
    anchor: dict[str, Factors] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        arrays = {f"omega.{name}": array for name, array in self.omega.items()}
        arrays |= {f"coefficient.{name}": mx.array(value) for name, value in self.coefficients.items()}
        for name, (a, b) in self.anchor.items():
            arrays |= {f"anchor_a.{name}": a, f"anchor_b.{name}": b}
        with whole_file(path) as temporary:
            save_arrays(temporary, arrays, {"tokens": str(self.tokens), "form": "dense"})

    @staticmethod
    def load(path: Path) -> DenseImportance:
        parts, metadata = read_parts(path)
        coefficients = {name: array.item() for name, array in parts["coefficient"].items()}
        anchor = {name: (a, parts["anchor_b"][name]) for name, a in parts["anchor_a"].items()}
        return DenseImportance(parts["omega"], coefficients, int(metadata["tokens"]), anchor)

    def place(self, model: nn.Module) -> None:
        """Set the adapter of `model` to the anchor: the released method goes on with the adapter that it measured."""
        for name, layer in lora_modules(model).items():
            if name in self.anchor:
                layer.lora_a, layer.lora_b = self.anchor[name]


def with_mean_one(omega: dict[str, mx.array], temperature: float, tokens: int) -> DenseImportance:
    """`omega` with mean 1 over all weights, and coefficients (||Omega_l||_F / mean)^(1/temperature) of mean 1."""
    mean = sum(array.sum().item() for array in omega.values()) / sum(array.size for array in omega.values())
    omega = {name: array / max(mean, 1e-30) for name, array in omega.items()}
    norms = norms_of(omega)
    raised = (norms / norms.mean()) ** (1 / temperature)
    return DenseImportance(omega, dict(zip(omega, (raised / raised.mean()).tolist(), strict=True)), tokens)


def norms_of(omega: dict[str, mx.array]) -> np.ndarray:
    """Frobenius norm of every layer's matrix, in order."""
    return np.array([mx.square(array).sum().item() ** 0.5 for array in omega.values()])


def update_of(layer: LoRALinear, factors: Factors) -> mx.array:
    """The update DW (D_out, D_in) of `factors` at the scale of `layer`."""
    a, b = factors
    return layer.scale * (a @ b).T


def dense_penalty(importance: DenseImportance) -> Penalty:
    """The function model -> sum_l c_l sum_ij Omega_ij (DW_ij - DW*_ij)^2, with DW* the anchor.

    Its gradient is computed with its value, so that only one layer's dense matrices are alive at a time.
    """

    def term(name: str, layer: UpdatedLinear) -> mx.array:
        if not isinstance(layer, LoRALinear):
            return (importance.omega[name] * mx.square(layer.update_matrix())).sum()

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

    return over_layers(importance.coefficients, term)


class DenseGuard(MeasuredGuard[DenseImportance]):
    """Base class of the guards whose state is a `DenseImportance`."""

    def terms(self, options: PenaltyOptions) -> GuardTerms:
        return GuardTerms(adapters=1, vectors=1, weights=1, largest_layers=3, observes=True)

    def penalty(self, state: DenseImportance) -> Penalty:
        return dense_penalty(state)

    def place(self, model: nn.Module, state: DenseImportance) -> None:
        state.place(model)

    def save(self, state: DenseImportance, path: Path) -> None:
        state.save(path)

    def load(self, path: Path) -> DenseImportance:
        return DenseImportance.load(path)
