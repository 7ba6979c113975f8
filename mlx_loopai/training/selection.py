"""Weighs the tokens of training rows by the base's view of them, before training: one forward pass per row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from mlx_loopai.config import SelectionOptions
from mlx_loopai.data.tokens import TokenRow
from mlx_loopai.models.backbone import hidden_states
from mlx_loopai.models.loss import Head
from mlx_loopai.models.pass_sizes import DEFAULT_CHUNK_ROWS
from mlx_loopai.progress import Advance, ignore

_Floats = npt.NDArray[np.float32]


def select_tokens(
    model: nn.Module,
    rows: Sequence[TokenRow],
    options: SelectionOptions,
    on_progress: Advance = ignore,
) -> list[TokenRow]:
    """`rows` with weights on their supervised tokens; call it before the model has an adapter.

    stm: 1 where the base gives the token a perplexity of at most `options.perplexity`, else 0 (arXiv 2501.14315).
    eaft: the entropy of the base's `options.top_k` likeliest tokens, renormalised, over ln k: a token of which
    the base is sure counts little. Source: arXiv 2601.02151, which takes the entropy of the model as it trains; ours is
    the base's, so that it costs one pass.
    """
    found = []
    for done, row in enumerate(rows):
        losses, entropies = _scores(model, row, options.top_k)
        chosen = losses <= math.log(options.perplexity) if options.kind == "stm" else entropies
        weights = np.zeros(len(row.ids), np.float32)
        weights[np.flatnonzero(row.supervised)] = chosen
        found.append(replace(row, weights=weights))
        on_progress(done + 1)
    return found


def _scores(model: nn.Module, row: TokenRow, top_k: int) -> tuple[_Floats, _Floats]:
    """Of every supervised token: its negative log-likelihood, and the entropy of the top k over ln k, in [0, 1]."""
    places = np.flatnonzero(row.supervised)
    hidden = hidden_states(model, mx.array(row.ids[None, :-1]))[0][mx.array(places - 1)]
    targets, head = mx.array(row.ids[places]), Head.of(model)
    losses, entropies = [], []
    for start in range(0, len(places), DEFAULT_CHUNK_ROWS):
        part = slice(start, start + DEFAULT_CHUNK_ROWS)
        scores = head.project(head.arrays, hidden[part], transpose=True).astype(mx.float32)
        picked = mx.take_along_axis(scores, targets[part][:, None], axis=-1)[:, 0]
        count = min(top_k, scores.shape[-1])
        top = mx.topk(scores, count, axis=-1)
        log_top = top - mx.logsumexp(top, axis=-1, keepdims=True)
        # Converted chunk by chunk, which also runs it, so that no two chunks of logits are alive together.
        losses.append(np.array(mx.logsumexp(scores, axis=-1) - picked))
        entropies.append(np.array(-(mx.exp(log_top) * log_top).sum(axis=-1) / math.log(count)))
    return np.concatenate(losses), np.concatenate(entropies)
