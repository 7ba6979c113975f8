"""The general rows of a run: those that it rehearses, those that its monitor watches, those that its guard measures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_loopai.config import RunConfig
from mlx_loopai.data.records import Message
from mlx_loopai.data.row_identity import row_digest, rows_digest
from mlx_loopai.data.tokens import REHEARSAL, TokenRow
from mlx_loopai.errors import InputError
from mlx_loopai.evaluation.perplexity import RowLosses, nll
from mlx_loopai.files import require_seal, seal
from mlx_loopai.guards.base_states import with_base_states
from mlx_loopai.guards.guard import Material, Penalty, guard_of
from mlx_loopai.guards.rehearsal import (
    CANDIDATES,
    MOST_WATCHED,
    WATCHED_ALONE,
    WATCHED_ROWS,
    WATCHED_TOKENS,
    Answering,
    Rehearsal,
    SelfRehearsal,
    general_prompts,
    rehearsal_divergence,
    self_rehearsal,
)
from mlx_loopai.guards.states import measuring_rows, state_of
from mlx_loopai.language import tr
from mlx_loopai.models.eager_loss import token_losses
from mlx_loopai.models.load import LoadedModel
from mlx_loopai.models.loss import Head
from mlx_loopai.models.micro_batch import MicroBatch
from mlx_loopai.models.pass_sizes import ANSWERED_ROWS, DEFAULT_CHUNK_ROWS
from mlx_loopai.progress import Advance
from mlx_loopai.runs.artifact_cache import kept_path
from mlx_loopai.runs.context import RunContext
from mlx_loopai.runs.listener import Listener
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
    kept = kept_path("states", context.loaded, [rows_digest(rows)], ".npy")
    return with_base_states(context.loaded.model, rows, context.directory.path, context.listener.advance, kept)


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

    They come evenly from every kind of rows, of each the surer half of the candidates (`surest`); rows that are only
    watched come first. Rehearsal rows that are watched are not trained on. Without rehearsal the general records serve,
    and without those the base's answers to some embedded prompts; the probes never do.
    """
    config = context.config
    if not config.watches:
        return [], rehearsal
    loaded, listener = context.loaded, context.listener
    if rehearsal:
        count = max(1, min(_affordable(rehearsal), len(rehearsal) // 4))
        watched = surest(loaded, rehearsal, count, listener)
        taken = {id(row) for row in watched}
        return watched, [row for row in rehearsal if id(row) not in taken and not _is_watched_alone(row)]
    if context.general:
        general = context.general_rows
        return surest(loaded, general, _affordable(general), listener), rehearsal
    path, seed = context.directory.monitor, config.train.seed
    if not path.exists():
        options = config.replay.model_copy(update={"source": "self", "max_prompts": CANDIDATES * WATCHED_ROWS})
        prompts = general_prompts([], options, seed, context.reader.tokenizer)
        listener.stage(tr("monitor: the base's answers"), len(prompts))
        answering = Answering(options.answer_tokens, options.temperature, seed)
        self_rehearsal(loaded, context.encoder, prompts, answering, listener.advance).save(path)
        seal(path)
    require_seal(path)
    return surest(loaded, Rehearsal.load(path).rows, WATCHED_ROWS, listener), rehearsal


def surest(loaded: LoadedModel, rows: Sequence[TokenRow], count: int, listener: Listener) -> list[TokenRow]:
    """`count` of the rows, evenly from every kind: of `CANDIDATES` times as many, those that the base is surest of.

    What a base only guesses moves far in any training and is no loss: nano's answers to what it does not know stood for
    nearly all of what its runs spent, and sums that were lost did not show (docs/experiments.md). Sureness is the mean
    log-likelihood of a row's answer, to a hundredth of a nat: machines that round differently choose alike, and among
    answers of which the base is quite sure the rows' content decides. Call it with the adapter off.
    """
    candidates = _evenly(rows, loaded.tokenizer)[: CANDIDATES * count]
    listener.stage(tr("rows to watch"), len(candidates))
    losses = _base_losses(loaded.model, candidates, listener.advance)
    unsure = dict(zip(map(id, candidates), np.round(losses.nll / losses.tokens, 2).tolist(), strict=True))
    kinds: dict[str, list[TokenRow]] = {}
    for kind, row in zip(kinds_of(candidates, loaded.tokenizer), candidates, strict=True):
        kinds.setdefault(kind, []).append(row)
    kept = [sorted(kinds[kind], key=lambda row: unsure[id(row)]) for kind in sorted(kinds)]
    halves = [found[: math.ceil(len(found) / CANDIDATES)] for found in kept]
    return _in_turn(halves)[:count]


def _base_losses(model: nn.Module, rows: Sequence[TokenRow], on_progress: Advance) -> RowLosses:
    """The base's losses of the rows' answers: from its states where all rows carry them, else by a forward pass."""
    if any(row.base_states is None for row in rows):
        return nll(model, rows, on_progress=on_progress)
    head, found = Head.of(model), []
    for done, row in enumerate(rows, 1):
        targets = row.ids[1:][row.supervised[1:]]
        found.append(token_losses(mx.array(row.base_states), head, targets, DEFAULT_CHUNK_ROWS))
        on_progress(done)
    return RowLosses(np.array([one.sum() for one in found], np.float64), np.array([len(one) for one in found]))


def _affordable(rows: Sequence[TokenRow]) -> int:
    """How many rows of this length a reading can afford."""
    mean_tokens = sum(len(row.ids) for row in rows) / len(rows)
    return max(WATCHED_ROWS, min(MOST_WATCHED, int(WATCHED_TOKENS / mean_tokens)))


def _is_watched_alone(row: TokenRow) -> bool:
    return row.origin.startswith(WATCHED_ALONE)


def _evenly(rows: Sequence[TokenRow], tokenizer: Any) -> list[TokenRow]:
    """The rows, one of each kind after the other, those that are only watched before others of their kind."""
    found: dict[str, list[TokenRow]] = {}
    ordered = sorted(rows, key=lambda row: (not _is_watched_alone(row), row_digest(row)))
    for kind, row in zip(kinds_of(ordered, tokenizer), ordered, strict=True):
        found.setdefault(kind, []).append(row)
    return _in_turn([found[name] for name in sorted(found)])


def _in_turn(groups: Sequence[Sequence[TokenRow]]) -> list[TokenRow]:
    """The first row of each group, then the second of each, and so on."""
    return [row for turn in zip_longest(*groups) for row in turn if row is not None]


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
