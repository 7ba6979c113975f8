"""Fits the adapter switch of a run: its own prompts against prompts that are rehearsed or could have been."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlx_loopai.data.records import Message
from mlx_loopai.data.tokens import REHEARSAL, TokenRow
from mlx_loopai.generation.switch import Switch, fit_switch, prompt_states
from mlx_loopai.guards.rehearsal import general_prompts
from mlx_loopai.language import tr
from mlx_loopai.runs.context import RunContext

# States are computed a prompt at a time: more of a kind say little that is new.
MOST_PROMPTS = 240


def switch_of(context: RunContext, rows: Sequence[TokenRow]) -> Switch | None:
    """The switch between the prompts of the training `rows` and general prompts; None where rows have no prompts.

    The general prompts are those of the run's general records, or the embedded ones, evenly from every kind. Nothing is
    generated for them.
    """
    own = _prompts([row for row in rows if row.category != REHEARSAL])
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
    found = fit_switch(for_adapter, prompt_states(model, general))
    context.listener.advance(2)
    return found


def _prompts(rows: Sequence[TokenRow]) -> list[list[int]]:
    """The distinct tokens before a row's first answer, evenly drawn; a row that begins with its answer has none."""
    found: dict[bytes, list[int]] = {}
    for row in rows:
        first = int(np.argmax(row.supervised))
        if first > 1:
            found.setdefault(row.ids[:first].tobytes(), row.ids[:first].tolist())
    prompts = list(found.values())
    if len(prompts) <= MOST_PROMPTS:
        return prompts
    return [prompts[place] for place in np.linspace(0, len(prompts) - 1, MOST_PROMPTS).astype(int)]
