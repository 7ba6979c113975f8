"""Log-probabilities of the tokens that might follow, computed from one state a row."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from mlx_loopai.models.backbone import hidden_states
from mlx_loopai.models.loss import Head
from mlx_loopai.models.micro_batch import MicroBatch
from mlx_loopai.models.pass_sizes import DEFAULT_CHUNK_ROWS
from mlx_loopai.models.prompt_cache import Prefix, compute_prefix


def read_to_next(model: nn.Module, ids: Sequence[int]) -> tuple[Prefix, npt.NDArray[np.float32]]:
    """(what `model` has read of `ids`, from which answers can go on; [V] nats of every token that might follow)."""
    cache = compute_prefix(model, ids[:-1]).cache
    logits = model(mx.array([ids[-1:]]), cache=cache)[0, -1].astype(mx.float32)
    return Prefix(tuple(ids), cache), np.array(logits - mx.logsumexp(logits))


def candidate_log_probabilities(
    model: nn.Module, batch: MicroBatch, chunk_rows: int = DEFAULT_CHUNK_ROWS
) -> npt.NDArray[np.float64]:
    """[B, K] nats of the candidates of `batch` in the place of each row's only target; 0 where there is none.

    At most `chunk_rows` rows of logits are alive at once.
    """
    assert batch.candidates is not None
    tokens = batch.candidates["token"]
    found = np.zeros(tokens.shape, np.float64)
    rows = np.flatnonzero(tokens[:, 0] >= 0)
    columns = batch.supervised[rows, 1:].argmax(axis=1)
    hidden = hidden_states(model, mx.array(batch.ids[:, :-1]), positions=(mx.array(rows), mx.array(columns)))
    head = Head.of(model)
    for start in range(0, len(rows), chunk_rows):
        own = rows[start : start + chunk_rows]
        likely = _log_probabilities(head, hidden[start : start + chunk_rows])
        picked = mx.take_along_axis(likely, mx.array(np.maximum(tokens[own], 0)), axis=-1)
        found[own] = np.where(tokens[own] >= 0, np.array(picked), 0.0)
    return found


def _log_probabilities(head: Head, hidden: mx.array) -> mx.array:
    """(N, D) -> (N, V) float32."""
    scores = head.project(head.arrays, hidden, transpose=True).astype(mx.float32)
    return scores - mx.logsumexp(scores, axis=-1, keepdims=True)
