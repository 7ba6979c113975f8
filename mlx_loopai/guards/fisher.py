"""`penalty.kind: fisher`: elastic weight consolidation on the merged update."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn

from mlx_loopai.guards.dense_importance import DenseGuard, DenseImportance, with_mean_one
from mlx_loopai.guards.guard import Material, register
from mlx_loopai.guards.observation import observe
from mlx_loopai.language import tr
from mlx_loopai.models.lora import adapter_disabled
from mlx_loopai.models.micro_batch import MicroBatch
from mlx_loopai.models.updated_linear import updated_modules
from mlx_loopai.progress import Advance, ignore


@register("fisher")
class Fisher(DenseGuard):
    """The Fisher diagonal of every adapted weight."""

    def measure(self, material: Material) -> DenseImportance:
        rows, listener = material.rows, material.listener
        listener.stage(tr("importance"), len(rows))
        return measure_fisher(material.base.model, rows, material.options.temperature, listener.advance)


def measure_fisher(
    model: nn.Module,
    batches: Sequence[MicroBatch],
    temperature: float = 1.0,
    on_progress: Advance = ignore,
) -> DenseImportance:
    """The mean over rows of (dL_row / dW)^2 at the base, L_row summed over its tokens, normalised to mean 1.

    Source: elastic weight consolidation (arXiv 1612.00796) on the merged update, as EWC-LoRA (arXiv 2602.17559).
    """
    layers = updated_modules(model)
    omega = {name: mx.zeros(layer.sizes) for name, layer in layers.items()}
    with adapter_disabled(model):
        for done, batch in enumerate(batches):
            inputs, gradients, _ = observe(model, layers, batch)
            for name in layers:
                for x, pull in zip(inputs[name], gradients[name], strict=True):
                    # One row at a time: the square of a batch's gradient is not the sum of its rows' squares.
                    omega[name] = omega[name] + mx.square(pull.astype(mx.float32).T @ x.astype(mx.float32))
                mx.eval(omega[name])
            on_progress(done + 1)
    return with_mean_one(omega, temperature, sum(int(batch.supervised[:, 1:].sum()) for batch in batches))
