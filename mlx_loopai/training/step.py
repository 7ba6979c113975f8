"""One optimizer step: micro-batches in, an updated adapter out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optimizers
import numpy as np
from mlx.utils import tree_map

from mlx_loopai.data.batches import MicroBatch
from mlx_loopai.models.backbone import hidden_states
from mlx_loopai.models.divergence import linear_divergence
from mlx_loopai.models.lora import adapter_disabled
from mlx_loopai.models.loss import Head, linear_cross_entropy

PAD_TARGETS_TO = 32
Penalty = Callable[[nn.Module], mx.array]


@dataclass(frozen=True)
class StepResult:
    """`loss`: nats per supervised token, weighted as the batches say; `penalty`, `divergence`: as added to the loss."""

    loss: float
    penalty: float
    gradient_norm: float
    supervised_tokens: int
    skipped: bool
    divergence: float = 0.0


@dataclass(frozen=True)
class Targets:
    """Where the supervised positions of a micro-batch are: all (N,), N padded to a multiple with weight 0.

    `rows`, `columns` index the hidden states whose next token is `tokens`. Where the distance from the base counts,
    `divergence` (N,) says how much, and `left_out` (N,) which token it leaves out (-1: none).
    """

    rows: mx.array
    columns: mx.array
    tokens: mx.array
    weights: mx.array
    divergence: mx.array | None = None
    left_out: mx.array | None = None

    @staticmethod
    def of(batch: MicroBatch) -> Targets:
        rows, columns = np.nonzero(batch.supervised[:, 1:])
        tokens = batch.ids[rows, columns + 1]
        # Few distinct counts, so that a compiled step is traced for few shapes.
        padding = (0, -len(rows) % PAD_TARGETS_TO)
        weights = np.ones(len(rows), np.float32) if batch.weights is None else batch.weights[rows, columns + 1]
        found: list[np.ndarray] = [rows, columns, tokens, weights]
        if batch.divergence is not None:
            rehearsed = np.zeros(len(rows), np.bool_) if batch.rehearsal is None else batch.rehearsal[rows]
            found += [batch.divergence[rows, columns + 1], np.where(rehearsed, -1, tokens)]
        return Targets(*(mx.array(np.pad(values, padding)) for values in found))

    @property
    def arrays(self) -> list[mx.array]:
        """The arguments of `batch_loss` after the token ids."""
        always = [self.rows, self.columns, self.tokens, self.weights]
        return always if self.divergence is None or self.left_out is None else [*always, self.divergence, self.left_out]


class TrainStep:
    """Runs optimizer steps on a model's trainable parameters.

    Gradients of summed token losses are accumulated over the micro-batches and divided by the step's supervised tokens:
    every token weighs the same, however rows fall into micro-batches. A step whose loss or gradient is not finite
    changes nothing and is counted.

    compile: None chooses by backend. MLX's compiler is for Metal; on CPU its fused loops were measured slower than the
    library's own kernels (docs/decisions.md).
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: optimizers.Optimizer,
        *,
        clip: float,
        chunk_rows: int,
        checkpointing: bool,
        compile: bool | None = None,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.clip = clip
        self.skipped_steps = 0
        gradient = _leaving_no_trace(
            model, partial(batch_loss, model, chunk_rows=chunk_rows, checkpointing=checkpointing)
        )
        compiled = mx.metal.is_available() if compile is None else compile
        state = [model.state, mx.random.state]
        self._gradient = mx.compile(gradient, inputs=state, outputs=[mx.random.state]) if compiled else gradient

    def __call__(
        self, batches: Sequence[MicroBatch], learning_rate: float, penalty: Penalty | None = None, strength: float = 0.0
    ) -> StepResult:
        """One update at `learning_rate`; the penalty's gradient is taken once a step, not once a micro-batch."""
        tokens = sum(int(batch.supervised[:, 1:].sum()) for batch in batches)
        both, apart, gradient = self._accumulate(batches)
        gradient = tree_map(lambda array: array / tokens, gradient)
        held = mx.zeros(())
        if penalty is not None and strength > 0:
            held, pull = nn.value_and_grad(self.model, lambda: strength * penalty(self.model))()
            gradient = tree_map(mx.add, gradient, pull)
        gradient, norm = optimizers.clip_grad_norm(gradient, self.clip or math.inf)
        mx.eval(both, apart, held, norm, gradient)
        loss = (both.item() - apart.item()) / max(_counted(batches), 1e-9)
        skipped = not (math.isfinite(loss) and math.isfinite(norm.item()))
        if skipped:
            self.skipped_steps += 1
        else:
            self.optimizer.learning_rate = learning_rate
            self.optimizer.update(self.model, gradient)
            mx.eval(self.model.trainable_parameters(), self.optimizer.state)
        return StepResult(loss, held.item(), norm.item(), tokens, skipped, apart.item() / tokens)

    def _accumulate(self, batches: Sequence[MicroBatch]) -> tuple[mx.array, mx.array, Any]:
        """Over all batches: the summed losses, their part that is distance from the base, and the gradient."""
        total, apart, gradient = mx.zeros(()), mx.zeros(()), None
        for batch in batches:
            targets = Targets.of(batch)
            ids = mx.array(batch.ids[:, :-1])
            (loss, *distance), part = self._gradient(ids, *targets.arrays)
            total, apart = total + loss, apart + sum(distance)
            gradient = part if gradient is None else tree_map(mx.add, gradient, part)
            # Evaluated here, so that one micro-batch's activations are freed before the next begins.
            mx.eval(total, apart, gradient)
        return total, apart, gradient


def _counted(batches: Sequence[MicroBatch]) -> float:
    """What the losses of all supervised tokens count together."""
    return float(sum((batch.supervised if batch.weights is None else batch.weights)[:, 1:].sum() for batch in batches))


def _leaving_no_trace(
    model: nn.Module, loss: Callable[..., tuple[mx.array, ...]]
) -> Callable[..., tuple[tuple[mx.array, ...], Any]]:
    """`nn.value_and_grad` that leaves `model` with the arrays it had.

    It puts the arrays it differentiates into the model; when a compiled function is traced those have no value, and
    the model would keep them.
    """
    value_and_gradient = nn.value_and_grad(model, loss)

    def run(*arguments: mx.array) -> tuple[tuple[mx.array, ...], Any]:
        before = model.trainable_parameters()
        result = value_and_gradient(*arguments)
        model.update(before)
        return result

    return run


def batch_loss(
    model: nn.Module,
    ids: mx.array,
    rows: mx.array,
    columns: mx.array,
    tokens: mx.array,
    weights: mx.array,
    divergence: mx.array | None = None,
    left_out: mx.array | None = None,
    *,
    chunk_rows: int,
    checkpointing: bool = False,
) -> tuple[mx.array, ...]:
    """(loss,) or (loss, its part that is distance from the base): nats summed over positions (rows, columns) of `ids`.

    ids (B, T). The loss is the negative log-likelihood of `tokens` (N,) times `weights`; where `divergence` (N,) is
    given, KL(base || adapted) times it is added, with the token `left_out` (N,) removed from both. The base is the
    model itself with its adapter switched off.
    """
    hidden = hidden_states(model, ids, checkpointing)[rows, columns]
    loss = linear_cross_entropy(hidden, Head.of(model), tokens, weights, chunk_rows)
    if divergence is None:
        return (loss,)
    with adapter_disabled(model):
        base = hidden_states(model, ids)[rows, columns]
    apart = linear_divergence(hidden, base, Head.of(model), divergence, left_out, chunk_rows)
    return loss + apart, apart
