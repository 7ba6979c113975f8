"""Full fine-tuning: every linear layer of the blocks learns a whole matrix, which is added to its frozen weight.

y = (W + D) x, with W in the model's precision as it was read and D (D_out, D_in) float32, 0 at first. Mixed-precision
training usually keeps a float32 copy of the weights; D takes its place, in the same bytes. Because the base stays
apart, guards can measure the distance from it and pull towards it, and an update can be scaled back. In half precision
the sum is rounded before it multiplies, so the weights that are saved are those that were trained.

Biases, norms, embeddings and the head stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn

from mlx_loopai.config import LoraOptions
from mlx_loopai.errors import InputError
from mlx_loopai.language import tr
from mlx_loopai.models.updated_linear import UpdatedLinear, chosen_linears, put_update, updated_modules


class FullLinear(UpdatedLinear):
    """A frozen dense layer with a whole matrix added to its weight."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear)
        self.delta = mx.zeros(linear.weight.shape)

    def __call__(self, x: mx.array) -> mx.array:
        """x (..., D_in) -> (..., D_out), in the dtype of `x`."""
        y = self._changed(x) if self.enabled else self.linear(x)
        return y if self.observer is None else self.observer(x, y)

    @property
    def changed_weight(self) -> mx.array:
        """W + D (D_out, D_in), in the dtype of W."""
        return _sum(self.linear.weight, self.delta)

    @property
    def changes_nothing(self) -> bool:
        return not mx.any(self.delta).item()

    def update_matrix(self) -> mx.array:
        return self.delta

    def scale_update(self, factor: float) -> None:
        self.delta = self.delta * factor

    def _changed(self, x: mx.array) -> mx.array:
        """(W + D) x. The sum is made again in the backward pass: all sums together would be as large as the model."""
        weight, bias = self.linear.weight, self.linear.get("bias")

        def forward(x: mx.array, delta: mx.array) -> mx.array:
            changed = _sum(weight, delta).T
            return x @ changed if bias is None else mx.addmm(bias, x, changed)

        product = mx.custom_function(forward)

        @product.vjp
        def backward(primals: Sequence[mx.array], cotangent: mx.array, output: mx.array) -> tuple[mx.array, mx.array]:
            x, delta = primals
            pulled = cotangent.reshape(-1, cotangent.shape[-1]).T @ x.reshape(-1, x.shape[-1])
            return cotangent @ _sum(weight, delta), pulled.astype(mx.float32)

        return product(x, self.delta)


class ChangedLinear(UpdatedLinear):
    """A frozen dense layer and its trained weight (D_out, D_in), for generation: no W + D is computed at each call."""

    def __init__(self, linear: nn.Linear, weight: mx.array) -> None:
        super().__init__(linear)
        self.changed = weight

    def __call__(self, x: mx.array) -> mx.array:
        """x (..., D_in) -> (..., D_out), in the dtype of `x`."""
        if self.enabled:
            bias = self.linear.get("bias")
            y = x @ self.changed.T if bias is None else mx.addmm(bias, x, self.changed.T)
        else:
            y = self.linear(x)
        return y if self.observer is None else self.observer(x, y)

    def update_matrix(self) -> mx.array:
        return self.changed.astype(mx.float32) - self.linear.weight.astype(mx.float32)

    def scale_update(self, factor: float) -> None:
        self.changed = _sum(self.linear.weight, factor * self.update_matrix())


def apply_full(model: nn.Module, options: LoraOptions) -> dict[str, FullLinear]:
    """Freeze `model` and let its blocks' linear layers learn whole updates; returns them by dotted name.

    Of `options` only `targets` and `layers` are read.

    Raises: InputError when the base is quantised, a name of `lora.targets` is not a linear layer's, or the model has an
    update already.
    """
    chosen = chosen_linears(model, options.targets, options.layers)
    if any(isinstance(layer, nn.QuantizedLinear) for _, _, layer in chosen):
        raise InputError(
            tr("train.method: full changes the weights themselves, and this base is quantised; give one that is not")
        )
    if not all(isinstance(layer, nn.Linear) for _, _, layer in chosen):
        raise InputError(tr("train.method: full does not change experts; leave switch_mlp out of lora.targets"))
    model.freeze()
    for block, name, layer in chosen:
        put_update(model, block, name, FullLinear(layer))
    return full_modules(model)


def full_modules(model: nn.Module) -> dict[str, FullLinear]:
    """Every layer of `model` that learns a whole update, by dotted name, in layer order."""
    return {name: layer for name, layer in updated_modules(model).items() if isinstance(layer, FullLinear)}


def _sum(weight: mx.array, delta: mx.array) -> mx.array:
    return (weight.astype(mx.float32) + delta).astype(weight.dtype)
