"""The base's final states at the targets of rehearsal rows: they do not change, so a step need not compute them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_loopai.data.batches import batches_by_length
from mlx_loopai.data.tokens import TokenRow
from mlx_loopai.models.backbone import hidden_states
from mlx_loopai.models.pass_sizes import SCORED_TOKENS
from mlx_loopai.progress import Advance, ignore


def with_base_states(
    model: nn.Module, rows: Sequence[TokenRow], folder: Path, on_progress: Advance = ignore
) -> list[TokenRow]:
    """`rows` with `base_states` (targets, D); call it before the model has an adapter, or with it off.

    The states lie in an unnamed, memory-mapped file in `folder`, which is gone when the process ends. In memory they
    would take 4 D bytes for every answer token, as much as a penalty's state.
    """
    ends = np.cumsum([0, *(int(row.supervised[1:].sum()) for row in rows)])
    width = model.model.norm.weight.shape[0]
    with tempfile.TemporaryFile(dir=folder) as file:
        states = np.memmap(file, np.float32, "w+", shape=(int(ends[-1]), width))
    done = 0
    for group, batch in batches_by_length(rows, SCORED_TOKENS):
        places = tuple(map(mx.array, np.nonzero(batch.supervised[:, 1:])))
        hidden = hidden_states(model, mx.array(batch.ids[:, :-1]), positions=places)
        found, start = np.array(hidden.astype(mx.float32)), 0
        for index in group:
            size = int(ends[index + 1] - ends[index])
            states[ends[index] : ends[index + 1]] = found[start : start + size]
            start += size
        done += len(group)
        on_progress(done)
    return [replace(row, base_states=states[ends[i] : ends[i + 1]]) for i, row in enumerate(rows)]
