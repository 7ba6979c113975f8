"""Negative log-likelihood of supervised tokens, row by row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from mlx_loopai.data.batches import batches_by_length
from mlx_loopai.data.tokens import TokenRow
from mlx_loopai.errors import InputError
from mlx_loopai.language import tr
from mlx_loopai.models.backbone import hidden_states
from mlx_loopai.models.eager_loss import token_losses
from mlx_loopai.models.loss import Head
from mlx_loopai.models.micro_batch import MicroBatch
from mlx_loopai.models.modes import evaluating
from mlx_loopai.models.pass_sizes import DEFAULT_CHUNK_ROWS, SCORED_TOKENS
from mlx_loopai.models.vision.pictures import Pictures
from mlx_loopai.progress import Advance, ignore


@dataclass(frozen=True, eq=False)
class RowLosses:
    """Losses of N rows, in order: `nll` float64 [N], summed nats; `tokens` int64 [N], supervised tokens."""

    nll: npt.NDArray[np.float64]
    tokens: npt.NDArray[np.int64]

    @property
    def nll_per_token(self) -> float:
        """Nats per token over all rows; every token weighs the same."""
        return float(self.nll.sum() / self.tokens.sum())

    @property
    def perplexity(self) -> float:
        """e^NLL per token of this model's own vocabulary: not to be compared between tokenizers."""
        try:
            return math.exp(self.nll_per_token)
        except OverflowError:
            return math.inf


def nll(
    model: nn.Module,
    rows: Sequence[TokenRow],
    micro_tokens: int = SCORED_TOKENS,
    chunk_rows: int = DEFAULT_CHUNK_ROWS,
    on_progress: Advance = ignore,
) -> RowLosses:
    """The losses of every row, without dropout; `on_progress` is called with the number of rows done.

    Rows of similar length run together, at most `micro_tokens` padded tokens at a time; at most `chunk_rows` rows of
    logits are alive at once. The model's training mode is left as it was.

    Raises: InputError without rows.
    """
    if not rows:
        raise InputError(tr("perplexity: there is no row to score; give at least one"))
    losses = np.zeros(len(rows))
    done = 0
    with evaluating(model):
        for group, batch in batches_by_length(rows, micro_tokens):
            losses[group] = batch_nll(model, batch, chunk_rows)
            done += len(group)
            on_progress(done)
    return RowLosses(losses, np.array([int(row.supervised[1:].sum()) for row in rows], np.int64))


def batch_nll(model: nn.Module, batch: MicroBatch, chunk_rows: int = DEFAULT_CHUNK_ROWS) -> npt.NDArray[np.float64]:
    """Summed negative log-likelihood of each row's supervised tokens: float64 [B], nats, log-sum-exp in float32."""
    rows, _, losses = _token_losses(model, batch, chunk_rows)
    return np.bincount(rows, weights=losses, minlength=len(batch.ids)).astype(np.float64)


def token_log_probabilities(
    model: nn.Module, batch: MicroBatch, chunk_rows: int = DEFAULT_CHUNK_ROWS
) -> npt.NDArray[np.float64]:
    """[B, T] nats of every supervised token; 0 elsewhere."""
    rows, columns, losses = _token_losses(model, batch, chunk_rows)
    found = np.zeros(batch.ids.shape)
    found[rows, columns + 1] = -losses
    return found


def _token_losses(
    model: nn.Module, batch: MicroBatch, chunk_rows: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.float32]]:
    """(rows, columns, losses) of the N supervised tokens, each by the place of the token before it."""
    rows, columns = np.nonzero(batch.supervised[:, 1:])
    targets = batch.ids[rows, columns + 1]
    places = mx.array(rows), mx.array(columns)
    pictures = Pictures.of_rows(batch.pictures)
    hidden = hidden_states(model, mx.array(batch.ids[:, :-1]), positions=places, pictures=pictures)
    return rows, columns, token_losses(hidden, Head.of(model), targets, chunk_rows)
