"""Watches general ability while a run trains: a few fixed general rows, with the adapter on and off."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from mlx_loopai.data.batches import batches_by_length
from mlx_loopai.data.tokens import TokenRow
from mlx_loopai.guards.budget import KindReading, distance
from mlx_loopai.models.backbone import hidden_states
from mlx_loopai.models.eager_loss import token_losses, token_losses_and_divergences
from mlx_loopai.models.lora import adapter_disabled
from mlx_loopai.models.loss import Head
from mlx_loopai.models.micro_batch import MicroBatch
from mlx_loopai.models.modes import evaluating
from mlx_loopai.models.pass_sizes import DEFAULT_CHUNK_ROWS, SCORED_TOKENS
from mlx_loopai.text.scripts import script_of
from mlx_loopai.training.checkpoint import Position

# A reading costs as much as two or three plain steps of a small model on short rows, so there is one in 15 steps, and
# one in 30 once the rate is falling. A phase that is too short for that has about READINGS of them: the budget's
# controller needs as many.
READINGS, MOST_STEPS_BETWEEN = 8, 15
_ROWS_PER_BATCH = 8


@dataclass(frozen=True)
class Reading:
    """How far the model has moved from its base on the monitor's rows.

    divergence: KL(base || adapted), nats per answer token; kinds: the same by kind of answers (`kinds_of`). spent,
    furthest, furthest_divergence: as in `Distance`. kept: exp(-spent), in (0, 1], 1 for the base. On answers that the
    base wrote, exp(-KL) is the share of a token's likelihood that the adapter leaves (a geometric mean). nll: nats per
    token of the answers, by their script; base_nll: the same with the adapter off.
    """

    kept: float
    divergence: float
    spent: float
    furthest: str
    furthest_divergence: float
    kinds: dict[str, float]
    nll: dict[str, float]
    base_nll: dict[str, float]


class Monitor:
    """Reads how far a model has moved from its base on fixed rows; draws nothing at random and changes nothing."""

    def __init__(
        self, model: nn.Module, rows: Sequence[TokenRow], tokenizer: Any, most_of_a_token: float = math.inf
    ) -> None:
        """Computes and keeps the base's states at the answers' tokens, so that a reading costs one forward pass.

        most_of_a_token: nats that one token counts at most.
        """
        self._model, self._most = model, most_of_a_token
        kinds = np.array(kinds_of(rows, tokenizer))
        scripts = np.array([_script(row, tokenizer) for row in rows])
        # What a row carries for training is not read here, and base states are large.
        plain = [replace(row, weights=None, base_states=None) for row in rows]
        self._rows_of = Counter(kinds.tolist())
        self._batches = []
        for indices, batch in batches_by_length(plain, SCORED_TOKENS, _ROWS_PER_BATCH):
            row_of_token = np.array(indices)[np.nonzero(batch.supervised[:, 1:])[0]]
            self._batches.append(_Watched(batch, kinds[row_of_token], scripts[row_of_token]))
        with adapter_disabled(model):
            self._base = [self._states(one.batch) for one in self._batches]
            mx.eval(self._base)
        head = Head.of(model)
        losses = [
            token_losses(states, head, one.targets, DEFAULT_CHUNK_ROWS)
            for one, states in zip(self._batches, self._base, strict=True)
        ]
        self._base_nll = self._means(losses)

    def read(self) -> Reading:
        """The model as it is now."""
        head, losses, apart = Head.of(self._model), [], []
        for one, base in zip(self._batches, self._base, strict=True):
            states = self._states(one.batch)
            read = token_losses_and_divergences(states, base, head, one.targets, DEFAULT_CHUNK_ROWS)
            losses.append(read[0])
            apart.append(np.minimum(read[1], self._most))
        sums = _sums([one.kinds for one in self._batches], apart)
        kinds = {kind: KindReading(nats, tokens, self._rows_of[kind]) for kind, (nats, tokens) in sums.items()}
        found = distance(kinds)
        return Reading(
            kept=math.exp(-found.spent),
            **vars(found),
            kinds={kind: one.divergence for kind, one in kinds.items()},
            nll=self._means(losses),
            base_nll=self._base_nll,
        )

    def _states(self, batch: MicroBatch) -> mx.array:
        """The final states (N, D) that predict the batch's N supervised tokens, without dropout."""
        rows, columns = np.nonzero(batch.supervised[:, 1:])
        with evaluating(self._model):
            return hidden_states(
                self._model, mx.array(batch.ids[:, :-1]), positions=(mx.array(rows), mx.array(columns))
            )

    def _means(self, losses: Sequence[npt.NDArray[np.float32]]) -> dict[str, float]:
        """By script: the mean of the losses of its tokens."""
        sums = _sums([one.scripts for one in self._batches], losses)
        return {script: nats / tokens for script, (nats, tokens) in sums.items()}


@dataclass(frozen=True)
class _Watched:
    """A batch of watched rows, with the kind and the script of the answer of each of its N supervised tokens."""

    batch: MicroBatch
    kinds: npt.NDArray[np.str_]  # [N]
    scripts: npt.NDArray[np.str_]  # [N]

    @property
    def targets(self) -> npt.NDArray[np.int32]:
        """The supervised tokens (N,)."""
        rows, columns = np.nonzero(self.batch.supervised[:, 1:])
        return self.batch.ids[rows, columns + 1]


def _sums(
    labels: Sequence[npt.NDArray[np.str_]], values: Sequence[npt.NDArray[np.float32]]
) -> dict[str, tuple[float, int]]:
    """By label: (the sum of its values, their number)."""
    names, places = np.unique(np.concatenate(labels), return_inverse=True)
    sums, counts = np.bincount(places, np.concatenate(values)), np.bincount(places)
    return {str(name): (float(sums[index]), int(counts[index])) for index, name in enumerate(names)}


def steps_between_readings(step: int, steps: int) -> int:
    """Optimizer steps from one reading to the next at `step` of a phase of `steps`, where the run may choose.

    In the second half of a phase there are half as many: the model moves less from step to step while its rate falls.
    """
    usual = min(MOST_STEPS_BETWEEN, max(1, steps * 3 // (4 * READINGS)))
    return usual if step < steps / 2 else 2 * usual


def readings_of(steps: int) -> int:
    """About how many readings a phase of `steps` has, where the run may choose."""
    first, second = (steps_between_readings(step, steps) for step in (0, steps))
    return math.ceil(steps / 2 / first) + math.ceil(steps / 2 / second)


def result_step(position: Position, keep_best: bool, rolls_back: bool) -> int | None:
    """The step whose checkpoint is a run's result; None: the state in which it ended.

    keep_best: take the step of the best validation. rolls_back: a run that fell below the monitor's floor goes back to
    the last step that was above it. A run that left its forgetting budget goes back to the last step inside it.
    """
    if position.left_budget:
        return position.inside_step
    best = position.best_step if keep_best else None
    if not (position.fell_below and rolls_back):
        return best
    # Every reading up to `kept_step` was above the floor.
    return best if best is not None and best <= (position.kept_step or 0) else position.kept_step


def kinds_of(rows: Sequence[TokenRow], tokenizer: Any) -> list[str]:
    """Of every general row: the ability that its answer shows or, where not all of them name one, the answer's script.

    Among prompts of somebody's own a few may be embedded ones, too: named for their ability, they would be a kind of
    one or two rows, whose odd answers steer a run.
    """
    if all(row.ability for row in rows):
        return [row.ability for row in rows]
    return [_script(row, tokenizer) for row in rows]


def _script(row: TokenRow, tokenizer: Any) -> str:
    """The script that most letters of a row's answer have; `none` without letters."""
    text = tokenizer.decode(row.ids[row.supervised].tolist())
    found = Counter(script.value for script in map(script_of, text) if script.is_letter)
    return found.most_common(1)[0][0] if found else "none"
