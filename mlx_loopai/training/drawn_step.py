"""grpo in the usual optimizer step: its gradient, written as a weight for every token of the answers that were drawn.

The loss depends on the model through the log-probabilities of the drawn tokens alone, so minus its derivative by each
is the weight of that token in the cross-entropy that the step computes anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import mlx.nn as nn
import numpy as np

from mlx_loopai.evaluation.perplexity import token_log_probabilities
from mlx_loopai.models.micro_batch import MicroBatch
from mlx_loopai.models.pass_sizes import DEFAULT_CHUNK_ROWS
from mlx_loopai.training.group_loss import clipped_losses
from mlx_loopai.training.judgement import JudgedStep


def weigh_drawn(
    model: nn.Module, batches: Sequence[MicroBatch], ratio_clip: float, chunk_rows: int = DEFAULT_CHUNK_ROWS
) -> JudgedStep:
    """The step's micro-batches with the weights of drawn answers: of each token what it counts as an ordinary one,
    times the advantage of its answer, times the ratio of its probability to that with which it was drawn.

    Where it is not known how likely the tokens were when they were drawn, the model has not changed since: the ratio is
    1, and no pass is needed. The step's loss is then the weighted log-likelihood, whose gradient is that of grpo.
    """
    return JudgedStep([_weighted(model, batch, ratio_clip, chunk_rows) for batch in batches])


def remembering(
    model: nn.Module, batches: Sequence[MicroBatch], chunk_rows: int = DEFAULT_CHUNK_ROWS
) -> list[MicroBatch]:
    """`batches`, in which drawn tokens have their log-probability under `model`, which drew them."""
    return [
        batch if batch.advantages is None else replace(batch, drawn=token_log_probabilities(model, batch, chunk_rows))
        for batch in batches
    ]


def _weighted(model: nn.Module, batch: MicroBatch, ratio_clip: float, chunk_rows: int) -> MicroBatch:
    if batch.advantages is None:
        return batch
    own = batch.supervised if batch.weights is None else batch.weights
    pulls = batch.advantages.astype(np.float64)[:, None]
    if batch.drawn is not None:
        gained = token_log_probabilities(model, batch, chunk_rows) - batch.drawn
        pulls = -clipped_losses(gained, pulls, ratio_clip).by_token
    return replace(batch, weights=(own * pulls).astype(np.float32))
