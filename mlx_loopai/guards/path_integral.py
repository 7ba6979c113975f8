"""Importance from a short training run on general rows: how much each weight's movement contributed to the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optimizers
import numpy as np
from mlx.utils import tree_unflatten

from mlx_loopai.config import PathOptions
from mlx_loopai.guards.dense_importance import DenseGuard, DenseImportance, norms_of, with_mean_one
from mlx_loopai.guards.guard import Material
from mlx_loopai.guards.observation import observe
from mlx_loopai.language import tr
from mlx_loopai.models.lora import LoRALinear, lora_modules
from mlx_loopai.models.micro_batch import MicroBatch
from mlx_loopai.progress import Advance, ignore

# PyTorch's default, which the released code trains with.
WEIGHT_DECAY = 0.01


@dataclass(frozen=True)
class PathForm:
    """The choices in which the released method (`hlora`) and the corrected one (`hierarchical`) differ.

    true_gradient: integrate dL/dDW; else the direction in which SGD on the factors would move DW. damping: added to
    DW^2; with `relative`, multiplied by the layer's mean of DW^2. clamp_each_step: keep the running sum from falling
    below 0 at every step; else only at the end. each_epoch: add one quotient to Omega after every epoch; else one at
    the end. softmax_scale: leave Omega as it is and weigh layers by softmax(scale ||Omega_l||), with sum 1; None:
    normalise both to mean 1. anchor_at_base: the penalty is 0 at the base; else where the measuring run ended.
    """

    true_gradient: bool
    damping: float
    relative: bool
    clamp_each_step: bool
    each_epoch: bool
    softmax_scale: float | None
    anchor_at_base: bool

    def changed(self, options: PathOptions) -> PathForm:
        """This form with what `options` sets put in its place."""
        return replace(self, **options.model_dump(include=set(vars(self)), exclude_none=True))


class PathGuard(DenseGuard):
    """Base class of the guards that measure by training on the general rows; they differ in `form`."""

    form: PathForm

    def measure(self, material: Material) -> DenseImportance:
        rows, options, listener = material.rows, material.options, material.listener
        listener.stage(tr("importance"), len(rows) * options.path.epochs)
        form = self.form.changed(options.path)
        return measure_path(material.base.model, rows, form, options.path, options.temperature, listener.advance)


def measure_path(
    model: nn.Module,
    batches: Sequence[MicroBatch],
    form: PathForm,
    options: PathOptions,
    temperature: float = 1.0,
    on_progress: Advance = ignore,
) -> DenseImportance:
    """Importance from training the adapter of `model` on `batches`, each an optimizer step, for `options.epochs`.

    With w <- w - g * (DW after - DW before) at every step, Omega = w / (DW^2 + damping). Afterwards the adapter is
    what it was before; `DenseImportance.place` moves it to the anchor where there is one.

    Source: synaptic intelligence (arXiv 1703.04200) on the merged update of LoRA, arXiv 2501.13669, with AdamW and a
    linear schedule without warm-up, as that paper's code was released.
    """
    layers = lora_modules(model)
    started = {name: (layer.lora_a, layer.lora_b) for name, layer in layers.items()}
    optimizer = optimizers.AdamW(options.learning_rate, weight_decay=WEIGHT_DECAY)
    optimizer.init(model.trainable_parameters())
    path = {name: mx.zeros((layer.lora_b.shape[1], layer.lora_a.shape[0])) for name, layer in layers.items()}
    omega = dict(path)
    descent, steps = _Descent(model, layers, optimizer, form), options.epochs * len(batches)
    for step in range(steps):
        rate = options.learning_rate * (1 - step / steps)
        descent.step(batches[step % len(batches)], rate, path)
        if (form.each_epoch and (step + 1) % len(batches) == 0) or step + 1 == steps:
            for name, layer in layers.items():
                omega[name] = omega[name] + _quotient(path[name], layer.update_matrix(), form)
                path[name] = mx.zeros_like(path[name])
            mx.eval(omega, path)
        on_progress(step + 1)
    ended = {name: (layer.lora_a, layer.lora_b) for name, layer in layers.items()}
    for name, layer in layers.items():
        layer.lora_a, layer.lora_b = started[name]
    tokens = sum(int(batch.supervised[:, 1:].sum()) for batch in batches)
    if form.softmax_scale is None:
        found = with_mean_one(omega, temperature, tokens)
    else:
        found = DenseImportance(omega, _softmax(form.softmax_scale, omega), tokens)
    return found if form.anchor_at_base else replace(found, anchor=ended)


@dataclass(frozen=True)
class _Descent:
    """Trains an adapter and sees what every weight's movement contributes to the loss."""

    model: nn.Module
    layers: dict[str, LoRALinear]
    optimizer: optimizers.Optimizer
    form: PathForm

    def step(self, batch: MicroBatch, rate: float, path: dict[str, mx.array]) -> None:
        """One optimizer step on a batch's mean token loss; adds what it contributed to `path`."""
        inputs, pulls, _ = observe(self.model, self.layers, batch)
        tokens = int(batch.supervised[:, 1:].sum())
        before, integrand, gradients = {}, {}, []
        for name, layer in self.layers.items():
            x, pull = (each.astype(mx.float32).reshape(-1, each.shape[-1]) for each in (inputs[name], pulls[name]))
            full = pull.T @ x / tokens
            pull_a, pull_b = layer.scale * full.T @ layer.lora_b.T, layer.scale * layer.lora_a.T @ full.T
            gradients += [(f"{name}.lora_a", pull_a), (f"{name}.lora_b", pull_b)]
            direction = pull_a @ layer.lora_b + layer.lora_a @ pull_b - rate * pull_a @ pull_b
            before[name] = layer.update_matrix()
            integrand[name] = full if self.form.true_gradient else layer.scale * direction.T
        self.optimizer.learning_rate = rate
        self.optimizer.update(self.model, tree_unflatten(gradients))
        for name, layer in self.layers.items():
            path[name] = path[name] - integrand[name] * (layer.update_matrix() - before[name])
            if self.form.clamp_each_step:
                path[name] = mx.maximum(path[name], 0)
        mx.eval(path, self.model.trainable_parameters(), self.optimizer.state)


def _quotient(path: mx.array, update: mx.array, form: PathForm) -> mx.array:
    squares = mx.square(update)
    # The tiny constant is for a layer that did not move at all: its path is 0 too, and 0 / 0 is not a number.
    damping = form.damping * squares.mean() + 1e-30 if form.relative else form.damping
    return mx.maximum(path, 0) / (squares + damping)


def _softmax(scale: float, omega: dict[str, mx.array]) -> dict[str, float]:
    scores = scale * norms_of(omega)
    exponent = np.exp(scores - scores.max())
    return dict(zip(omega, (exponent / exponent.sum()).tolist(), strict=True))
