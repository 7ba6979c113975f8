"""Fits a run's adapter switch: a classifier that tells the prompts of its rows from general prompts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mlx_loopai.data.chosen_rows import column_of
from mlx_loopai.data.records import Message
from mlx_loopai.data.tokens import TokenRow
from mlx_loopai.generation.switch import Switch, fit_switch, prompt_states
from mlx_loopai.guards.rehearsal import general_prompts
from mlx_loopai.language import tr
from mlx_loopai.runs.context import RunContext

# More prompts of the same kind add little.
MOST_PROMPTS = 240
# Rows among which they are looked for.
_MOST_READ = 1 << 14
_NONE = 0


def switch_of(context: RunContext, rows: Sequence[TokenRow], rehearsed: Sequence[TokenRow] = ()) -> Switch | None:
    """The switch between the prompts of the training `rows` and general prompts; None where rows have no prompts.

    The general prompts are those of the run's general records, or the embedded ones, evenly from every kind. Nothing is
    generated for them. rehearsed: rows whose base states, where they have them, are not computed again.
    """
    own = _prompts(rows)
    if len(own) < 2:
        return None
    config, model = context.config, context.loaded.model
    options = config.replay.model_copy(update={"source": "self", "max_prompts": MOST_PROMPTS})
    general = [
        context.encoder.prompt_ids([Message("user", prompt)])
        for prompt in general_prompts(context.general, options, config.train.seed)
    ]
    context.listener.stage(tr("adapter switch"), 2)
    for_adapter = prompt_states(model, own)
    context.listener.advance(1)
    known = _known_states(rehearsed)
    unknown = [ids for ids in general if tuple(ids) not in known]
    if unknown:
        known |= zip(map(tuple, unknown), prompt_states(model, unknown), strict=True)
    found = fit_switch(for_adapter, np.stack([known[tuple(ids)] for ids in general]))
    context.listener.advance(2)
    return found


def _known_states(rehearsed: Sequence[TokenRow]) -> dict[tuple[int, ...], npt.NDArray[np.float32]]:
    """By prompt: the base's final state at its last token, which predicts the first token of the row's answer."""
    return {
        tuple(_prompt(row).tolist()): row.base_states[0]
        for row in rehearsed
        if row.base_states is not None and row.supervised[1:].any()
    }


def _prompts(rows: Sequence[TokenRow]) -> list[list[int]]:
    """The distinct tokens before the first answer of rows that are not rehearsed, evenly drawn.

    A row that begins with its answer has none.
    """
    own = np.flatnonzero(~column_of(rows, "rehearsal"))
    if len(own) > _MOST_READ:  # each row is read from the disk
        own = own[np.linspace(0, len(own) - 1, _MOST_READ).astype(int)]
    told = np.array([_prompt_hash(rows[place]) for place in own.tolist()], np.int64)
    first = np.sort(np.unique(told, return_index=True)[1])
    first = first[told[first] != _NONE]
    if len(first) > MOST_PROMPTS:
        first = first[np.linspace(0, len(first) - 1, MOST_PROMPTS).astype(int)]
    return [_prompt(rows[place]).tolist() for place in own[first].tolist()]


def _prompt(row: TokenRow) -> npt.NDArray[np.int32]:
    return row.prompt if len(row.prompt) > 1 else row.prompt[:0]


def _prompt_hash(row: TokenRow) -> int:
    prompt = _prompt(row)
    if not len(prompt):
        return _NONE
    return int.from_bytes(hashlib.blake2b(prompt.tobytes(), digest_size=8).digest(), signed=True)
