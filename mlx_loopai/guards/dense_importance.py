"""Importance with one number per weight: EWC's Fisher diagonal, and the path integrals, for comparison.

A dense Omega is as large as the adapted part of the base in float32: with every linear adapted, nearly the whole model.
The factored forms of `training.importance` need D_in + D_out numbers a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_loopai.files import whole_file
from mlx_loopai.guards.importance import observe
from mlx_loopai.models.adapters import save_arrays
from mlx_loopai.models.lora import LoRALinear, adapter_disabled, lora_modules
from mlx_loopai.models.micro_batch import MicroBatch

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
        arrays, metadata = mx.load(str(path), return_metadata=True)
        parts: dict[str, dict[str, mx.array]] = {"omega": {}, "coefficient": {}, "anchor_a": {}, "anchor_b": {}}
        for key, array in arrays.items():
            part, _, name = key.partition(".")
            parts[part][name] = array
        coefficients = {name: array.item() for name, array in parts["coefficient"].items()}
        anchor = {name: (a, parts["anchor_b"][name]) for name, a in parts["anchor_a"].items()}
        return DenseImportance(parts["omega"], coefficients, int(metadata["tokens"]), anchor)

    def place(self, model: nn.Module) -> None:
        """Put the adapter of `model` on the anchor: the released method goes on with the adapter that it measured."""
        for name, layer in lora_modules(model).items():
            if name in self.anchor:
                layer.lora_a, layer.lora_b = self.anchor[name]


def measure_fisher(
    model: nn.Module,
    batches: Sequence[MicroBatch],
    temperature: float = 1.0,
    on_batch: Callable[[int], None] = lambda done: None,
) -> DenseImportance:
    """The mean over rows of (dL_row / dW)^2 at the base, L_row summed over its tokens, normalised to mean 1.

    Source: elastic weight consolidation (arXiv 1612.00796) on the merged update, as EWC-LoRA (arXiv 2602.17559).
    """
    layers = lora_modules(model)
    omega = {name: mx.zeros((layer.lora_b.shape[1], layer.lora_a.shape[0])) for name, layer in layers.items()}
    with adapter_disabled(model):
        for done, batch in enumerate(batches):
            inputs, gradients, _ = observe(model, layers, batch)
            for name in layers:
                for x, pull in zip(inputs[name], gradients[name], strict=True):
                    # One row at a time: the square of a batch's gradient is not the sum of its rows' squares.
                    omega[name] = omega[name] + mx.square(pull.astype(mx.float32).T @ x.astype(mx.float32))
                mx.eval(omega[name])
            on_batch(done + 1)
    return with_mean_one(omega, temperature, sum(int(batch.supervised[:, 1:].sum()) for batch in batches))


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


def update_of(layer: LoRALinear, factors: Factors | None = None) -> mx.array:
    """DW (D_out, D_in) of a layer, or of other factors at its scale."""
    a, b = factors or (layer.lora_a, layer.lora_b)
    return layer.scale * (a @ b).T
