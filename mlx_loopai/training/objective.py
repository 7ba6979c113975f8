"""Weights of a step's tokens: in the cross-entropy, in the KL to the base, and of rehearsal against training rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mlx_loopai.config import ReplayOptions
from mlx_loopai.guards.rehearsal import rehearsal_divergence
from mlx_loopai.models.micro_batch import MicroBatch

_Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Objective:
    """What a step minimises, as weights of its tokens.

    loss_share: share of a step's loss that its rehearsal rows have; 0: every token counts the same. rehearses_answers:
    whether rehearsal rows train their answers. rehearsal_divergence: factor of KL(base || adapted) at the answers of
    rehearsal rows. training_divergence: the same at those of training rows, with the target left out of both
    distributions.
    """

    loss_share: float = 0.0
    rehearses_answers: bool = True
    rehearsal_divergence: float = 0.0
    training_divergence: float = 0.0

    @staticmethod
    def of(options: ReplayOptions, training_divergence: float = 0.0) -> Objective:
        return Objective(
            options.loss_share, options.objective != "kl", rehearsal_divergence(options), training_divergence
        )

    def scaled(self, factor: float) -> Objective:
        """The same where guards weigh `factor` times as much: so do the odds of rehearsal against training."""
        if factor == 1.0:
            return self
        odds = factor * self.loss_share / (1 - self.loss_share)
        # Where rehearsal has a share of its own, its distance from the base is part of that share.
        divergence = self.rehearsal_divergence * (1.0 if self.loss_share else factor)
        return replace(
            self,
            loss_share=odds / (1 + odds),
            rehearsal_divergence=divergence,
            training_divergence=self.training_divergence * factor,
        )

    def weigh(self, batches: Sequence[MicroBatch]) -> list[MicroBatch]:
        """The micro-batches of one step with their weights; a step's supervised tokens count 1 each on average."""
        if self == Objective() and all(batch.weights is None for batch in batches):
            return list(batches)
        counts = _counts(batches, self.loss_share)
        # Tokens that `selection` chose share the weight of all training tokens of the step, however few they are.
        chosen = _sum(batches, [_own(batch) for batch in batches])
        rate = _sum(batches, [batch.supervised.astype(np.float32) for batch in batches]) / chosen if chosen else 0.0
        return [self._weighted(batch, count, rate) for batch, count in zip(batches, counts, strict=True)]

    def _weighted(self, batch: MicroBatch, count: _Floats, rate: float) -> MicroBatch:
        rehearsal = _rehearsal(batch)[:, None]
        answers = count * np.where(rehearsal, np.float32(self.rehearses_answers), np.float32(rate) * _own(batch))
        factor = np.where(rehearsal, np.float32(self.rehearsal_divergence), np.float32(self.training_divergence))
        divergence = count * factor
        return replace(batch, weights=answers, divergence=divergence if divergence.any() else None)


def _counts(batches: Sequence[MicroBatch], loss_share: float) -> list[_Floats]:
    """What each token [B, T] counts, so that rehearsal rows have `loss_share` of the step's total; its mean is 1."""
    tokens = {
        group: sum(int(batch.supervised[_rehearsal(batch) == group, 1:].sum()) for batch in batches)
        for group in (True, False)
    }
    factors = {True: 1.0, False: 1.0}
    if loss_share and all(tokens.values()):
        everything = sum(tokens.values())
        factors = {True: loss_share * everything / tokens[True], False: (1 - loss_share) * everything / tokens[False]}
    return [
        (batch.supervised * np.where(_rehearsal(batch)[:, None], factors[True], factors[False])).astype(np.float32)
        for batch in batches
    ]


def _own(batch: MicroBatch) -> _Floats:
    """[B, T]: the weights that the rows brought, or 1 for every supervised token."""
    return batch.supervised.astype(np.float32) if batch.weights is None else batch.weights


def _sum(batches: Sequence[MicroBatch], values: Sequence[_Floats]) -> float:
    """Over the targets of training rows."""
    return float(sum(each[~_rehearsal(batch), 1:].sum() for batch, each in zip(batches, values, strict=True)))


def _rehearsal(batch: MicroBatch) -> npt.NDArray[np.bool_]:
    return np.zeros(len(batch.ids), np.bool_) if batch.rehearsal is None else batch.rehearsal
