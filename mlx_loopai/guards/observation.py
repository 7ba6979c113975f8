"""Records the inputs of adapted layers, and the gradients of the loss at their outputs, in one backward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import mlx.core as mx
import mlx.nn as nn

from mlx_loopai.models.backbone import hidden_states
from mlx_loopai.models.gradient import Targets
from mlx_loopai.models.loss import Head, linear_cross_entropy
from mlx_loopai.models.micro_batch import MicroBatch
from mlx_loopai.models.updated_linear import UpdatedLinear


def observe(
    model: nn.Module, layers: Mapping[str, UpdatedLinear], batch: MicroBatch
) -> tuple[dict[str, mx.array], dict[str, mx.array], dict[str, str]]:
    """Every layer's inputs (B, T, D_in) and the gradients of the summed token losses at its outputs (B, T, D_out).

    The third value maps every layer to the first layer that reads the same input.
    """
    targets = Targets.of(batch)
    ids = mx.array(batch.ids[:, :-1])
    head = Head.of(model)
    owners: dict[str, str] = {}

    def loss(offsets: dict[str, mx.array]) -> tuple[mx.array, dict[str, mx.array]]:
        inputs: dict[str, mx.array] = {}
        for name, layer in layers.items():
            layer.observer = _tap(name, inputs, offsets)
        hidden = hidden_states(model, ids, opening=0)[targets.rows, targets.columns]
        owners.update(owners_of(inputs))
        return linear_cross_entropy(hidden, head, targets.tokens, targets.weights), inputs

    offsets = {name: mx.zeros((*ids.shape, layer.sizes[0])) for name, layer in layers.items()}
    try:
        (_, inputs), gradients = mx.value_and_grad(loss)(offsets)
    finally:
        for layer in layers.values():
            layer.observer = None
    return inputs, gradients, owners


def owners_of(arrays: dict[str, mx.array]) -> dict[str, str]:
    """Of every name, the first name that has the same array."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(array), name) for name, array in arrays.items()}


def _tap(
    name: str, inputs: dict[str, mx.array], offsets: dict[str, mx.array]
) -> Callable[[mx.array, mx.array], mx.array]:
    def observe(x: mx.array, y: mx.array) -> mx.array:
        inputs[name] = x
        return y + offsets[name].astype(y.dtype)

    return observe
