"""The general rows of a run: those that it rehearses, those that its monitor watches, those that its guard measures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest

from mlx_loopai.config import RunConfig
from mlx_loopai.data.records import Message
from mlx_loopai.data.row_identity import row_digest
from mlx_loopai.data.tokens import REHEARSAL, TokenRow
from mlx_loopai.errors import InputError
from mlx_loopai.files import require_seal, seal
from mlx_loopai.guards.base_states import with_base_states
from mlx_loopai.guards.guard import Material, Penalty, guard_of
from mlx_loopai.guards.rehearsal import (
    WATCHED_ALONE,
    WATCHED_ROWS,
    Answering,
    Rehearsal,
    SelfRehearsal,
    general_prompts,
    rehearsal_divergence,
    self_rehearsal,
)
from mlx_loopai.guards.states import measuring_rows, state_of
from mlx_loopai.language import tr
from mlx_loopai.models.micro_batch import MicroBatch
from mlx_loopai.models.pass_sizes import ANSWERED_ROWS
from mlx_loopai.runs.context import RunContext
from mlx_loopai.training.monitor import kinds_of

# The number of prompts is rounded up to a multiple of this, so that runs of similar size share the base's answers.
_PROMPTS_ROUNDED_TO = 64


def rehearsal_rows(context: RunContext, batch_rows: int = 0) -> list[TokenRow]:
    """The rows that phases mix in: none, the general rows as they are, or the base's own answers (made once a run).

    Where the objective needs them, rows carry the base's final states at their targets. batch_rows: prompts answered
    together; 0: `ANSWERED_ROWS`. Raises: InputError where general rows are needed and there are none.
    """
    rows, options = _rows(context, batch_rows or ANSWERED_ROWS), context.config.replay
    if not rows or not rehearsal_divergence(options):
        return rows
    context.listener.stage(tr("the base on rehearsal"), len(rows))
    return with_base_states(context.loaded.model, rows, context.directory.path, context.listener.advance)


def _rows(context: RunContext, batch_rows: int) -> list[TokenRow]:
    config, options, seed = context.config, context.config.replay, context.config.train.seed
    if not config.needs_rehearsal:
        return []
    if options.source == "records":
        if not context.general:
            raise InputError(tr("replay.source: records needs `general: FILE`; or use replay.source: self"))
        return [replace(row, category=REHEARSAL) for row in context.general_rows]
    if not context.general and options.source == "self" and not context.directory.rehearsal.exists():
        context.listener.notice(tr("rehearsal uses the built-in prompts; set `general` for your own"))
    guard = SelfRehearsal(
        prompts=_prompts(context),
        encoder=context.encoder,
        answering=Answering(options.answer_tokens, options.temperature, seed, batch_rows),
    )
    return list(state_of(guard, context.directory.rehearsal, lambda: _material(context, ())).rows)


def longest_prompt(context: RunContext) -> int:
    """Tokens of the longest general prompt that the base answers for a run; 0 where it answers none."""
    if not context.config.needs_rehearsal or context.config.replay.source == "records":
        return 0
    return max(len(context.encoder.prompt_ids([Message("user", prompt)])) for prompt in _prompts(context))


def _prompts(context: RunContext) -> list[str]:
    """The general prompts that the base answers."""
    config = context.config
    enough = config.replay.model_copy(update={"max_prompts": prompts_needed(config, len(context.rows.lengths))})
    return general_prompts(context.general, enough, config.train.seed, context.reader.tokenizer)


def prompts_needed(config: RunConfig, n_rows: int) -> int:
    """How many prompts a run of `n_rows` training rows has a use for: to rehearse, to watch and to measure on."""
    train, replay = config.train, config.replay
    share = max(phase.replay_share for phase in config.trained_phases)
    if train.max_steps:
        drawn = train.max_steps * train.rows_per_step * share
    else:
        drawn = n_rows * train.epochs * share / (1 - share)
    measured = config.penalty.sequences if config.measures_importance else 0
    wanted = max(drawn, measured) + WATCHED_ROWS
    return min(replay.max_prompts, _PROMPTS_ROUNDED_TO * math.ceil(wanted / _PROMPTS_ROUNDED_TO))


def watched_rows(context: RunContext, rehearsal: list[TokenRow]) -> tuple[list[TokenRow], list[TokenRow]]:
    """The monitor's rows, and the rehearsal rows that are left to train on; (none, all) when nothing is watched.

    They come evenly from every kind of rows, for an ability that has such rows from those that are only watched.
    Rehearsal rows that are watched are not trained on. Without rehearsal the general records serve, and without those
    the base's answers to some embedded prompts; the probes never do.
    """
    config = context.config
    if not config.watches:
        return [], rehearsal
    if rehearsal:
        alone = [row for row in rehearsal if row.origin.startswith(WATCHED_ALONE)]
        abilities = {row.ability for row in alone}
        pool = [*alone, *(row for row in rehearsal if row.ability not in abilities)]
        watched = _evenly(context, pool or rehearsal)[: max(1, min(WATCHED_ROWS, len(rehearsal) // 4))]
        taken = {id(row) for row in (*watched, *alone)}
        return watched, [row for row in rehearsal if id(row) not in taken]
    if context.general:
        return _evenly(context, context.general_rows)[:WATCHED_ROWS], rehearsal
    path, seed = context.directory.monitor, config.train.seed
    if not path.exists():
        options = config.replay.model_copy(update={"source": "self", "max_prompts": WATCHED_ROWS})
        prompts = general_prompts([], options, seed, context.reader.tokenizer)
        context.listener.stage(tr("monitor: the base's answers"), len(prompts))
        answering = Answering(options.answer_tokens, options.temperature, seed)
        self_rehearsal(context.loaded, context.encoder, prompts, answering, context.listener.advance).save(path)
        seal(path)
    require_seal(path)
    return list(Rehearsal.load(path).rows), rehearsal


def _evenly(context: RunContext, rows: Sequence[TokenRow]) -> list[TokenRow]:
    """The rows, one of each kind after the other, in an order that depends on their content alone."""
    found: dict[str, list[TokenRow]] = {}
    ordered = sorted(rows, key=row_digest)
    for kind, row in zip(kinds_of(ordered, context.loaded.tokenizer), ordered, strict=True):
        found.setdefault(kind, []).append(row)
    return [row for turn in zip_longest(*(found[name] for name in sorted(found))) for row in turn if row is not None]


def measured_penalty(context: RunContext, rehearsal: Sequence[TokenRow], batch_tokens: int = 0) -> Penalty | None:
    """The penalty of the run's guard, measured on the rehearsal rows, or else on the general records.

    The adapter is moved to where the guard wants training to start. batch_tokens: most padded tokens of a batch of
    several rows; 0: the default number of rows, however long.

    Raises: InputError when the guard needs general rows and there are none.
    """
    config, guard = context.config, guard_of(context.config.penalty)
    if not config.measures_importance:
        return guard.penalty(None)

    def material() -> Material:
        rows = list(rehearsal or context.general_rows)
        return _material(context, measuring_rows(rows, config.penalty, batch_tokens))

    state = state_of(guard, context.directory.importance, material)
    guard.place(context.loaded.model, state)
    return guard.penalty(state)


def _material(context: RunContext, rows: Sequence[MicroBatch]) -> Material:
    config = context.config
    return Material(
        base=context.loaded,
        rows=rows,
        options=config.penalty,
        adapter=config.lora,
        seed=config.train.seed,
        listener=context.listener,
    )
