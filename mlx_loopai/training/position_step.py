"""tlpo in the usual optimizer step: its gradient, written as a weight for every token that might follow at a position.

The loss depends on the model through the log-probabilities of the candidates alone. So one pass without gradient finds
them, and minus the derivative of the loss by each is the weight of that token in the cross-entropy that the step
computes anyway: a position is K targets of one state. Its KL to the base is that of the guards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from mlx_loopai.config import PreferenceOptions
from mlx_loopai.evaluation.next_tokens import candidate_log_probabilities
from mlx_loopai.models.micro_batch import MicroBatch
from mlx_loopai.models.pass_sizes import DEFAULT_CHUNK_ROWS
from mlx_loopai.training.judgement import JudgedStep
from mlx_loopai.training.position_loss import Candidates, position_losses


def weigh_positions(
    model: nn.Module,
    batches: Sequence[MicroBatch],
    options: PreferenceOptions,
    chunk_rows: int = DEFAULT_CHUNK_ROWS,
) -> JudgedStep:
    """The step's micro-batches with the weights of their candidates. Every position of a step has an equal share.

    Together the positions of a step count as much as their targets would as ordinary rows.
    """
    rows = [_positions(batch) for batch in batches]
    shares = [_own_weights(batch)[own].sum() for batch, own in zip(batches, rows, strict=True)]
    scale = float(sum(shares)) / sum(map(len, rows))
    found, gained, correction = list(batches), [], 0.0
    for number, (batch, own) in enumerate(zip(batches, rows, strict=True)):
        if not len(own):
            continue
        candidates = _candidates(model, batch, own, chunk_rows)
        told = position_losses(candidates, options.ratio_clip)
        found[number] = _weighted(batch, own, -scale * told.by_candidate, scale * options.kl_weight)
        gained.append(candidates.odds_gained)
        surrogate = (told.by_candidate * candidates.log_probability).sum()
        correction += scale * float(told.losses.sum() - surrogate)
    odds = np.concatenate(gained)
    return JudgedStep(found, correction, float((odds > 0).mean()), float(odds.mean()))


def _positions(batch: MicroBatch) -> npt.NDArray[np.intp]:
    """The rows that are positions."""
    return (
        np.flatnonzero(batch.candidates["token"][:, 0] >= 0) if batch.candidates is not None else np.zeros(0, np.intp)
    )


def _own_weights(batch: MicroBatch) -> npt.NDArray[np.float32]:
    """[B]: what each row's targets count together."""
    weights = batch.supervised if batch.weights is None else batch.weights
    return weights[:, 1:].sum(axis=1, dtype=np.float32)


def _candidates(model: nn.Module, batch: MicroBatch, rows: npt.NDArray[np.intp], chunk_rows: int) -> Candidates:
    assert batch.candidates is not None
    own = batch.candidates[rows]
    likely = candidate_log_probabilities(model, batch, chunk_rows)[rows]
    return Candidates(likely, own["reference"], own["score"], own["token"] >= 0)


def _weighted(
    batch: MicroBatch, rows: npt.NDArray[np.intp], weights: npt.NDArray[np.float64], divergence: float
) -> MicroBatch:
    """`batch` whose positions `rows` have `weights` [rows, K] for their candidates, and that weight of their KL."""
    assert batch.candidates is not None
    candidates = batch.candidates.copy()
    candidates["weight"][rows] = weights
    if not divergence:
        return replace(batch, candidates=candidates)
    apart = np.zeros(batch.ids.shape, np.float32) if batch.divergence is None else batch.divergence.copy()
    apart[rows] += np.float32(divergence) * batch.supervised[rows]
    return replace(batch, candidates=candidates, divergence=apart)
