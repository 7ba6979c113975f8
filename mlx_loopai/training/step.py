"""One optimizer step: micro-batches in, an updated adapter out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optimizers
from mlx.utils import tree_map, tree_map_with_path

from mlx_loopai.config import PreferenceOptions, TrainPath
from mlx_loopai.guards.guard import Penalty
from mlx_loopai.models.gradient import LossForm, Targets, actual_path, compiled_gradient, eager_gradient
from mlx_loopai.models.loss import PLAIN, LossTerms
from mlx_loopai.models.micro_batch import MicroBatch
from mlx_loopai.models.pass_sizes import DEFAULT_CHUNK_ROWS
from mlx_loopai.models.vision.pictures import Pictures
from mlx_loopai.training.judged_step import weigh_judged
from mlx_loopai.training.parameter_vectors import ParameterVectors
from mlx_loopai.training.process_group import ALONE, ProcessGroup
from mlx_loopai.training.update_in_turn import UpdateInTurn

NO_PREFERENCE = PreferenceOptions()
# A limit on the gradient's norm that no finite gradient reaches. Not infinity, which a compiled kernel cannot hold.
_UNBOUNDED = 1e30


@dataclass(frozen=True)
class StepResult:
    """`loss`: nats per supervised token, weighted as the batches say; `penalty`, `divergence`: as added to the loss.

    Judged answers count in `loss` with their preference loss, answers that the model drew with their weighted
    log-likelihood; `pair_accuracy` and `margin` are those of `JudgedStep`.
    """

    loss: float
    penalty: float
    gradient_norm: float
    supervised_tokens: int
    skipped: bool
    divergence: float = 0.0
    pair_accuracy: float | None = None
    margin: float | None = None


NOTHING_LEARNT = StepResult(loss=0.0, penalty=0.0, gradient_norm=0.0, supervised_tokens=0, skipped=False)


@dataclass(frozen=True)
class StepSettings:
    """How every step of a run is computed.

    clip: largest global gradient norm, 0 for no limit. chunk_rows: rows of logits alive at once. checkpointing: whether
    blocks are computed again in the backward pass. terms: label smoothing and z-loss. path: `compiled` is what a GPU
    runs, `eager` what a CPU runs; `auto` chooses by the device (docs/benchmarks.md). preference: the loss of judged
    answers. b_rate: learning rate of the adapters' B as a multiple of that of every other parameter. in_turn: update
    one vector after the other, which saves memory where whole models are trained and gives the same result.
    """

    clip: float
    chunk_rows: int = DEFAULT_CHUNK_ROWS
    checkpointing: bool = False
    terms: LossTerms = PLAIN
    path: TrainPath = "auto"
    preference: PreferenceOptions = NO_PREFERENCE
    b_rate: float = 1.0
    in_turn: bool = False


class TrainStep:
    """Runs optimizer steps on a model's trainable parameters, which `optimizer` sees as a few long vectors.

    Gradients of summed token losses are accumulated over the micro-batches and divided by the step's supervised tokens:
    every token weighs the same, however rows fall into micro-batches. A step whose loss or gradient is not finite
    changes nothing and is counted. `held` puts the update back where it may be, at first and after every step.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: optimizers.Optimizer,
        settings: StepSettings,
        group: ProcessGroup = ALONE,
        held: Callable[[], None] | None = None,
    ) -> None:
        if held is not None:
            held()  # a new adapter's A acts from every direction
        self.model = model
        self.optimizer = optimizer
        self.settings = settings
        self.skipped_steps = 0
        self.skipped_in_a_row = 0
        self._group, self._held = group, held
        self._vectors = ParameterVectors(model.trainable_parameters(), optimizer)
        optimizer.init(self._vectors.join(model.trainable_parameters()))
        compiled = actual_path(settings.path) == "compiled"
        build = compiled_gradient if compiled else eager_gradient
        form = LossForm(settings.chunk_rows, settings.terms, checkpointing=settings.checkpointing)
        self._gradient = build(model, form)
        self._updated = mx.compile(self._update) if compiled else self._update
        self._in_turn = UpdateInTurn(optimizer, settings.clip, compiled) if settings.in_turn else None

    def __call__(
        self, batches: Sequence[MicroBatch], learning_rate: float, penalty: Penalty | None = None, strength: float = 0.0
    ) -> StepResult:
        """One update at `learning_rate`; the penalty's gradient is taken once a step, not once a micro-batch."""
        tokens = sum(int(batch.supervised[:, 1:].sum()) for batch in batches)
        counted = _counted(batches)
        judged = weigh_judged(self.model, batches, self.settings.preference, self.settings.chunk_rows)
        both, apart, gradient = self._group.sum(self._accumulate(self._group.share(judged.batches)))
        held, pull = mx.zeros(()), None
        if penalty is not None and strength > 0:
            held, pull = nn.value_and_grad(self.model, lambda: strength * penalty(self.model))()
        summed = both - apart + judged.correction
        update = self._update_all if self._in_turn is None else self._update_each
        norm = update(gradient, pull, (tokens, learning_rate, summed))
        mx.eval(both, apart, held, norm, self.model.trainable_parameters(), self.optimizer.state)
        loss = (both.item() - apart.item() + judged.correction) / max(counted, 1e-9)
        skipped = not (math.isfinite(summed.item()) and math.isfinite(norm.item()))
        if self._held is not None and not skipped:
            self._held()
        self.skipped_steps += skipped
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if skipped else 0
        return StepResult(
            loss=loss,
            penalty=held.item(),
            gradient_norm=norm.item(),
            supervised_tokens=tokens,
            skipped=skipped,
            divergence=apart.item() / tokens,
            pair_accuracy=judged.pair_accuracy,
            margin=judged.margin,
        )

    def _update_all(self, gradient: Any, pull: Any, numbers: tuple[int, float, mx.array]) -> mx.array:
        """Update all parameters at once, unless loss or gradient is not finite; returns the gradient's norm."""
        tokens, learning_rate, summed = numbers
        # Arrays, since a compiled function is traced again for every other number.
        arrays = mx.array(tokens, mx.float32), mx.array(learning_rate), summed
        before = self.model.trainable_parameters(), self.optimizer.state
        parameters, self.optimizer.state, norm = self._updated(gradient, pull, before, arrays)
        self.model.update(parameters)
        return norm

    def _update_each(self, gradient: Any, pull: Any, numbers: tuple[int, float, mx.array]) -> mx.array:
        """`_update_all`, one vector after the other."""
        assert self._in_turn is not None
        tokens, learning_rate, summed = numbers
        pulled = {} if pull is None else self._vectors.join(pull)
        del pull
        mx.eval(summed, gradient, pulled)
        norm = self._in_turn.norm(gradient, pulled, tokens)
        if math.isfinite(summed.item()) and math.isfinite(norm):
            parameters = self._vectors.join(self.model.trainable_parameters())
            for changed in self._in_turn(gradient, pulled, parameters, (tokens, learning_rate, norm)):
                self.model.update(self._vectors.split(changed))
        return mx.array(norm)

    def _update(
        self, gradient: Any, pull: Any, before: tuple[Any, Any], numbers: tuple[mx.array, mx.array, mx.array]
    ) -> tuple[Any, Any, mx.array]:
        """(parameters, state of the optimizer, norm of the gradient) after a step, or as before where it is not finite.

        gradient: vectors of the summed losses' gradient; pull: tree of the penalty's, if there is one; before:
        parameters and state; numbers: supervised tokens, learning rate, and the summed losses.
        """
        (tree, state), (tokens, learning_rate, summed) = before, numbers
        parameters = self._vectors.join(tree)
        gradient = tree_map(lambda array: array / tokens, gradient)
        if pull is not None:
            gradient = tree_map(mx.add, gradient, self._vectors.join(pull))
        gradient, norm = optimizers.clip_grad_norm(gradient, self.settings.clip or _UNBOUNDED)
        # A copy: the optimizer writes into its state.
        self.optimizer.state = tree_map(lambda array: array, state)
        self.optimizer.state["learning_rate"] = learning_rate
        changed = self.optimizer.apply_gradients(gradient, parameters)
        is_finite = mx.isfinite(summed) & mx.isfinite(norm)
        changed, state = (
            tree_map(lambda new, old: mx.where(is_finite, new, old), *pair)
            for pair in ((changed, parameters), (self.optimizer.state, state))
        )
        return self._with_b_rate(tree, self._vectors.split(changed)), state, norm

    def _with_b_rate(self, before: Any, after: Any) -> Any:
        """`after` with B moved `b_rate` times as far: the same as a learning rate of its own, with which updates scale.

        Source: LoRA+, arXiv 2402.12354, section 4, where the ratio is lambda.
        """
        rate = self.settings.b_rate
        if rate == 1:
            return after
        return tree_map_with_path(
            lambda name, new, old: old + rate * (new - old) if name.endswith("lora_b") else new, after, before
        )

    def _accumulate(self, batches: Sequence[MicroBatch]) -> tuple[mx.array, mx.array, Any]:
        """Over all batches: the summed losses, the part of them that is KL to the base, and the gradient as vectors."""
        total, apart, gradient = mx.zeros(()), mx.zeros(()), None
        for number, batch in enumerate(batches, 1):
            (loss, distance), part = self._gradient(
                mx.array(batch.ids[:, :-1]), Targets.of(batch), Pictures.of_rows(batch.pictures), batch.opening
            )
            total, apart = total + loss, apart + distance
            vectors = self._vectors.join(part)
            del part  # it and the vectors below would be alive while the next micro-batch's are computed
            gradient = vectors if gradient is None else self._sum(gradient, vectors)
            # Evaluated here, so that one micro-batch's activations are freed before the next begins; the last one is
            # evaluated with the update.
            if number < len(batches):
                mx.eval(total, apart, gradient)
            del vectors
        if gradient is None:  # more processes than rows
            gradient = tree_map(mx.zeros_like, self._vectors.join(self.model.trainable_parameters()))
        return total, apart, gradient

    def _sum(self, gradient: dict[str, mx.array], more: dict[str, mx.array]) -> dict[str, mx.array]:
        """Both together; of a whole model one vector after the other, so that no third copy is alive."""
        if self._in_turn is None:
            return tree_map(mx.add, gradient, more)
        mx.eval(more)
        for name in gradient:
            gradient[name] = gradient[name] + more.pop(name)
            mx.eval(gradient[name])
        return gradient


def _counted(batches: Sequence[MicroBatch]) -> float:
    """The summed weights of all supervised tokens."""
    return float(sum((batch.supervised if batch.weights is None else batch.weights)[:, 1:].sum() for batch in batches))
