"""Brings a run to its first step, or to where its last checkpoint left it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn

from mlx_loopai.config import LoraOptions, SelectionOptions
from mlx_loopai.data.rows import Rows
from mlx_loopai.data.tokens import TokenRow
from mlx_loopai.errors import InputError
from mlx_loopai.evaluation.perplexity import RowLosses
from mlx_loopai.guards.budget import MOST_OF_A_TOKEN
from mlx_loopai.guards.held_directions import HeldDirections
from mlx_loopai.language import tr
from mlx_loopai.memory.plan import MemoryPlan
from mlx_loopai.memory.watch import MemoryWatch
from mlx_loopai.models.adapters import ADAPTER_SCOPE, find_adapter, load_adapter, read_adapter_config
from mlx_loopai.models.full import apply_full
from mlx_loopai.models.lora import apply_lora, lora_modules
from mlx_loopai.models.loss import LossTerms
from mlx_loopai.models.updated_linear import computes_as_base, updated_modules
from mlx_loopai.models.whole_model import check_can_be_saved
from mlx_loopai.runs.context import RunContext
from mlx_loopai.runs.listener import Listener
from mlx_loopai.training.checkpoint import Position, latest_checkpoint, restore_checkpoint
from mlx_loopai.training.drawing import Drawer, Room
from mlx_loopai.training.general_rows import measured_penalty, rehearsal_rows, watched_rows
from mlx_loopai.training.loop import Run, losses_of
from mlx_loopai.training.monitor import Monitor
from mlx_loopai.training.optimizer import build_optimizer
from mlx_loopai.training.phases import plan_phases
from mlx_loopai.training.position_reference import with_position_states
from mlx_loopai.training.process_group import ProcessGroup
from mlx_loopai.training.ranks import ranks_of
from mlx_loopai.training.reference import with_reference
from mlx_loopai.training.seeing import begin_projector, prepare_projector, shelve_pictures
from mlx_loopai.training.selection import select_tokens
from mlx_loopai.training.step import StepSettings, TrainStep


@dataclass(frozen=True)
class Resources:
    """What a run may use: the settings that fit the machine, the watch over its memory, and the processes."""

    plan: MemoryPlan
    watch: MemoryWatch
    group: ProcessGroup


def started_run(context: RunContext, resources: Resources, resume: bool) -> Run:
    """The run at its first step, or where its last checkpoint left it; the base of `context` is loaded.

    Raises: InputError when the run needs rows that it does not have, or a checkpoint is damaged.
    """
    started, plan, group = time.perf_counter(), resources.plan, resources.group
    config, listener, loaded = context.config, context.listener, context.loaded
    model = loaded.model
    with group.first_process_first():
        shelve_pictures(context)
        rehearsed = rehearsal_rows(context, plan.rehearsal_rows)
        watched, rehearsal = watched_rows(context, rehearsed)
        sources: Mapping[str, Sequence[TokenRow]] = context.rows.sources
        if config.selection.kind != "none":
            sources = _selected(model, sources, config.selection, listener)
        put_update(context, adapter_form(config.lora, plan))
        prepare_projector(model, config.vision, sees=context.reader.shelf is not None)
        sources, judged = _compared(context, sources)
        penalty = measured_penalty(context, rehearsal, plan.importance_tokens) if config.changes_text else None
        mx.clear_cache()  # the buffers of what came before have other sizes than those of a step
        phases = plan_phases(config, sources, rehearsal, plan.micro_tokens)
    step = _step(context, resources)
    mx.random.seed(config.train.seed)
    checkpoint = latest_checkpoint(context.directory.checkpoints) if resume else None
    rows, scored_s, held_out_base = context.rows, None, None
    drawer = _drawer(context, plan)
    if checkpoint:
        position = restore_checkpoint(checkpoint, model, step.optimizer)
    else:
        if resume:
            listener.notice(tr("{path}: no complete checkpoint; starting over", path=context.directory.path))
        begin_projector(context)
        position, scored_s, held_out_base = _scored(model, rows, listener, drawer)
    step.skipped_steps = position.skipped_steps
    group.barrier()  # all have read the checkpoint before rank 0 writes the next
    return Run(
        model=model,
        rows=rows,
        train=config.train,
        forgetting=config.forgetting,
        budget=config.forgetting.budget if config.has_budget or config.stops_at_budget else 0.0,
        stops_at_budget=config.stops_at_budget,
        drawer=drawer,
        directory=context.directory,
        listener=listener,
        watch=resources.watch,
        group=group,
        step=step,
        penalty=penalty,
        phases=phases,
        monitor=Monitor(model, watched, loaded.tokenizer, MOST_OF_A_TOKEN) if watched else None,
        checkpoint=checkpoint,
        position=position,
        started=started,
        scored_s=scored_s,
        held_out_base=held_out_base,
        rehearsed=rehearsed,
        judged=judged,
    )


def put_update(context: RunContext, form: LoraOptions) -> None:
    """Freeze the base and put on it what the run trains: an adapter of `form`, or whole updates of the same matrices.

    Of a run that teaches a projector alone nothing of the text model is trained, the adapter of `form.start` included.

    Raises: InputError where the base has no place for it.
    """
    model = context.loaded.model
    if context.config.trains_weights:
        check_can_be_saved(context.base.path, apply_full(model, form))
    elif form.start:
        _go_on_from(context, form)
    elif context.config.changes_text:
        put = apply_lora(model, form, context.config.train.seed, ranks_of(context, form))
        if context.config.measures_importance and len(put) < len(updated_modules(model)):
            raise InputError(
                tr(
                    "penalty.kind {kind} does not measure experts; use kl, or leave switch_mlp out of lora.targets",
                    kind=context.config.penalty.kind,
                )
            )
        if context.config.penalty.held_energy and len(put) < len(updated_modules(model)):
            raise InputError(
                tr("penalty.held_energy does not hold experts; set it to 0, or leave switch_mlp out of lora.targets")
            )
    if not context.config.changes_text:
        model.freeze()


def _go_on_from(context: RunContext, form: LoraOptions) -> None:
    """Put the adapter of `lora.start` on the base, in whose form the context was opened."""
    folder = find_adapter(Path(form.start))
    model = context.loaded.model
    if form.layers != context.config.lora.layers:
        raise InputError(
            tr(
                "lora.start {folder}: memory has room for the last {layers} blocks only, and this adapter has others; "
                "set a larger memory.budget, or shorter rows (train.max_tokens)",
                folder=folder,
                layers=form.layers,
            )
        )
    scope = (read_adapter_config(folder).get("mlx_loopai") or {}).get(ADAPTER_SCOPE)
    if scope == "image" and context.config.vision.adapter_scope != "image":
        raise InputError(
            tr(
                "lora.start {folder}: answers requests with pictures only; set vision.adapter_scope: image, too",
                folder=folder,
            )
        )
    load_adapter(model, folder, context.loaded.base_hash, form.dropout)
    if not lora_modules(model):
        raise InputError(tr("lora.start {folder}: holds a projector and no adapter; give another one", folder=folder))


def _compared(
    context: RunContext, sources: Mapping[str, Sequence[TokenRow]]
) -> tuple[Mapping[str, Sequence[TokenRow]], list[TokenRow]]:
    """(the rows of `sources`, the held-out judged rows), with what judged answers are compared with."""
    config, loaded, listener = context.config, context.loaded, context.listener
    start = config.lora.start
    if config.preference.needs_reference:
        sources = {name: with_reference(loaded, rows, start, listener) for name, rows in sources.items()}
    if config.preference.takes_positions and config.preference.kl_weight:
        folder = context.directory.path
        sources = {name: with_position_states(loaded.model, rows, folder, listener) for name, rows in sources.items()}
    held_out = context.rows.judged if config.preference.is_on else []
    return sources, with_reference(loaded, held_out, start, listener)


def adapter_form(options: LoraOptions, plan: MemoryPlan) -> LoraOptions:
    """What a run trains: as `options` say, on the blocks that the plan has room for."""
    return options.model_copy(update={"layers": plan.lora_layers})


def _selected(
    model: nn.Module, sources: Mapping[str, Sequence[TokenRow]], options: SelectionOptions, listener: Listener
) -> Mapping[str, Sequence[TokenRow]]:
    """The rows of `sources`, their tokens weighted by the base, which has no adapter yet."""
    found: dict[str, Sequence[TokenRow]] = {}
    for name, rows in sources.items():
        listener.stage(tr("selection in {name}", name=name), len(rows))
        found[name] = select_tokens(model, rows, options, listener.advance)
    return found


def _drawer(context: RunContext, plan: MemoryPlan) -> Drawer | None:
    """What answers the prompts of a run that learns from its own answers; None for any other run."""
    config = context.config
    if not config.preference.takes_prompts:
        return None
    room = Room(plan.sampling_rows, plan.micro_tokens, context.rows.longest_asked)
    return Drawer(context.loaded, config.preference, config.train.seed, room)


def _scored(
    model: nn.Module, rows: Rows, listener: Listener, drawer: Drawer | None
) -> tuple[Position, float, RowLosses | None]:
    """Where a new run stands, with what its fixed and held-out rows score now; the seconds that took; and the base's
    losses on the held-out rows, if these are what was scored.
    """
    started = time.perf_counter()
    fixed = losses_of(model, rows.fixed, listener, tr("loss before"))
    held_out = losses_of(model, rows.validation, listener, tr("held-out rows before"))
    asked = None
    if drawer is not None and rows.asked:
        asked = drawer.read(rows.asked, listener)
    position = Position(
        loss_first=None if fixed is None else fixed.nll_per_token,
        validation_first=None if held_out is None else held_out.nll_per_token,
        asked_first=asked,
    )
    return position, time.perf_counter() - started, held_out if computes_as_base(model) else None


def _step(context: RunContext, resources: Resources) -> TrainStep:
    train, plan = context.config.train, resources.plan
    settings = StepSettings(
        clip=train.clip,
        chunk_rows=plan.chunk_rows,
        checkpointing=plan.checkpointing,
        terms=LossTerms(train.label_smoothing, train.z_loss),
        path=train.path,
        preference=context.config.preference,
        b_rate=context.config.lora.b_rate,
        in_turn=context.config.trains_weights,
    )
    model, energy = context.loaded.model, context.config.penalty.held_energy
    held = HeldDirections(model, energy, context.listener) if energy and context.config.changes_text else None
    return TrainStep(model, build_optimizer(train), settings, resources.group, held)
