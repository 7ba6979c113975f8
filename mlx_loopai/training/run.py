"""Trains an adapter or a whole model: from a configuration to its folder, checkpointed, resumable and recorded."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_loopai.config import RunConfig
from mlx_loopai.data.batches import share_in_file_order
from mlx_loopai.data.chosen_rows import ChosenRows
from mlx_loopai.errors import Diverged, InputError
from mlx_loopai.evaluation.perplexity import RowLosses
from mlx_loopai.guards.terms import memory_terms
from mlx_loopai.language import tr
from mlx_loopai.memory.machine import this_machine
from mlx_loopai.memory.plan import MemoryPlan, plan
from mlx_loopai.memory.watch import guarded
from mlx_loopai.models.adapters import ADAPTER_SCOPE, save_adapter
from mlx_loopai.models.shape import ModelShape
from mlx_loopai.models.whole_model import save_whole_model
from mlx_loopai.runs.context import RunContext
from mlx_loopai.runs.directory import RunDirectory
from mlx_loopai.runs.documents.summary import Summary
from mlx_loopai.runs.listener import Listener
from mlx_loopai.training.answer_lengths import answer_lengths
from mlx_loopai.training.card import card_notes
from mlx_loopai.training.checkpoint import checkpoint_path, restore_checkpoint
from mlx_loopai.training.identity import Identity, check_identity, record_start, versions
from mlx_loopai.training.known import known_of
from mlx_loopai.training.loop import Run, losses_of, read_asked, read_judged, run_steps
from mlx_loopai.training.monitor import Reading, result_step
from mlx_loopai.training.phases import Phase
from mlx_loopai.training.process_group import ALONE, ProcessGroup
from mlx_loopai.training.samples import Samples, sample_prompts
from mlx_loopai.training.scale_back import scale_back
from mlx_loopai.training.start import Resources, adapter_form, started_run
from mlx_loopai.training.switching import switch_of


@dataclass(frozen=True)
class Trained:
    """A run that was trained: its summary, and its held-out rows' losses under the result and under the base.

    None where there are no such rows; the base's losses are known only where its run was not resumed.
    """

    summary: Summary
    held_out: RowLosses | None
    held_out_base: RowLosses | None


def train(
    config: RunConfig, out: Path, listener: Listener, resume: bool = False, group: ProcessGroup = ALONE
) -> Summary:
    """Train an adapter into `out`/adapter, or with `train.method: full` a model into `out`/model; returns the summary.

    Of several processes, rank 0 writes.

    Raises: InputError for wrong input; Interrupted after Ctrl-C, with a checkpoint saved; Diverged when the loss stays
    non-finite; LoopaiError when no setting fits this machine's memory, memory runs out, or the first reading of general
    ability is below the floor to which the run should roll back.
    """
    context = RunContext.open(config, RunDirectory(out, writes=group.rank == 0), listener)
    return train_in(context, resume, group).summary


def train_in(
    context: RunContext,
    resume: bool = False,
    group: ProcessGroup = ALONE,
    begun: Callable[[RunContext], object] | None = None,
) -> Trained:
    """Train the run of an opened context, as `train` does; its model keeps the update. Raises: as `train`.

    begun: called once every check that could refuse the run has passed, with the context that records what it is told.
    """
    if group.size > 1:
        _refuse_in_several(context.config, group.size)
    planned = _planned(context)
    with context.directory.locked(), guarded(planned) as watch:
        context.listener.stage(tr("loading the base"), 1)
        bits = _bits_to_quantize(context.base.shape, planned)
        if bits:
            context.listener.notice(
                tr(
                    "memory: the base is quantised to {base_precision} to fit; see mlx-loopai plan",
                    base_precision=planned.base_precision,
                )
            )
        context.base.load(context.config.dtype, bits)
        context.listener.advance(1)
        if context.directory.writes:
            check_identity(context.directory, Identity.of(context), resume)
        # From here on the folder is this run's: what is refused before leaves nothing in it.
        context = context.recorded()
        if begun is not None:
            begun(context)
        mx.reset_peak_memory()
        resources = Resources(planned, watch, group)
        return _finish(context, started_run(context, resources, resume), planned)


def _refuse_in_several(config: RunConfig, size: int) -> None:
    """Raises: InputError for what several processes would compute otherwise than one."""
    if config.lora.dropout:
        raise InputError(
            tr(
                "lora.dropout {dropout:g} in {size} processes: each would drop other entries than one process "
                "alone; set lora.dropout to 0, or train in one process",
                dropout=config.lora.dropout,
                size=size,
            )
        )
    if config.penalty.held_energy:
        raise InputError(
            tr(
                "penalty.held_energy {energy:g} in {size} processes: of nearly equal singular values each machine "
                "could hold others; set it to 0, or train in one process",
                energy=config.penalty.held_energy,
                size=size,
            )
        )
    if config.preference.takes_prompts:
        raise InputError(
            tr(
                "preference.objective {objective} in {size} processes: a difference in rounding between machines would "
                "draw other answers on each; train in one process",
                objective=config.preference.objective,
                size=size,
            )
        )


def _planned(context: RunContext) -> MemoryPlan:
    """The settings with which the run fits this machine, from the rows that it trains on.

    Raises: LoopaiError when none do; InputError when a data file cannot be read.
    """
    config, shape, machine, rows = context.config, context.base.shape, this_machine(), context.rows
    for notice in rows.notices:
        context.listener.notice(notice)
    _ = context.general  # not needed yet, but a wrong path should be said before the model is loaded
    known = known_of(context, machine)
    return plan(shape, config, machine, memory_terms(config.penalty, config.replay), known).require_fit()


def _finish(context: RunContext, run: Run, planned: MemoryPlan) -> Trained:
    """Run the remaining steps, save the adapter, and say what happened."""
    before, loop_started = run.position.supervised_tokens, time.perf_counter()
    resumed_from = str(run.checkpoint) if run.checkpoint else None
    run.directory.forget_after(run.position.step)
    made_with = versions(planned.machine, run.train.path)
    record_start(run.directory, made_with, resumed_from, run.total_steps, run.listener)
    run.directory.record("foreseen", **_foreseen(run, planned), judged=context.config.is_judged)
    if run.position.asked_first is not None and not run.position.step:
        run.directory.record("prompts", step=0, **vars(run.position.asked_first))
    samples = Samples(loaded=context.loaded, encoder=context.encoder, prompts=lambda: sample_prompts(context))
    run_steps(run, samples)
    loop_s = time.perf_counter() - loop_started
    position = run.position
    chosen = result_step(position, run.train.keep_best, rolls_back=run.forgetting.on_floor == "rollback")
    if chosen is not None:
        restore_checkpoint(checkpoint_path(run.directory.checkpoints, chosen), run.model, run.step.optimizer)
    known = run.last_reading if chosen is None else None
    scale, reading = _scaled_back(run, known[1] if known and known[0] == position.step else None)
    loss_last = _finite_loss(run)
    held_out = losses_of(run.model, run.rows.validation, run.listener, tr("held-out rows after"))
    losses: dict[str, Any] = {
        "loss_first": position.loss_first,
        "loss_last": loss_last,
        "validation_first": position.validation_first,
        "validation_last": None if held_out is None else held_out.nll_per_token,
    }
    judged = _judged_figures(context, run)
    if run.directory.writes:
        stopped = {"stopped_outside_budget_at_step": position.step} if position.left_budget else {}
        _write_result(context, run, planned, card_notes(context.config, losses | judged | stopped, reading))
    summary = Summary(
        run=str(run.directory.path),
        steps=position.step,
        **losses,
        supervised_tokens=position.supervised_tokens,
        tokens_per_s=(position.supervised_tokens - before) / max(loop_s, 1e-9),
        **_shares(run),
        peak_bytes=mx.get_peak_memory(),
        plan_bytes=planned.total_bytes,
        resumed_from=resumed_from,
        skipped_steps=run.step.skipped_steps,
        train_s=time.perf_counter() - run.started,
        best_step=position.best_step,
        validation_best=position.best_validation,
        budget_spent=reading.spent if reading else None,
        divergence=reading.divergence if reading else None,
        furthest_kind=reading.furthest if reading else "",
        furthest_divergence=reading.furthest_divergence if reading else None,
        model=str(run.directory.model) if context.config.trains_weights else None,
        update_scale=scale,
        stopped_by="budget" if position.left_budget else "",
        result_step=chosen,
        **judged,
    )
    run.directory.record("done", **summary.to_json())
    return Trained(summary, held_out, run.held_out_base)


def _shares(run: Run) -> dict[str, Any]:
    """Shares of tokens, by their names in the summary: of the run's rows, or of the answers that it drew itself."""
    if run.drawer is not None and run.drawer.real_token_share:
        return {
            "real_token_share": run.drawer.real_token_share,
            "supervised_token_share": run.drawer.supervised_token_share,
        }
    return {
        "real_token_share": _mean(run.phases, lambda phase: phase.real_token_share),
        "mlx_lm_token_share": share_in_file_order(run.rows.lengths, run.train.rows_per_step),
        "supervised_token_share": _mean(run.phases, lambda phase: phase.supervised_token_share),
    }


def _judged_figures(context: RunContext, run: Run) -> dict[str, Any]:
    """What the held-out judged answers or prompts say at the end, recorded; nothing where there are none."""
    asked, first = read_asked(run, run.listener), run.position.asked_first
    if asked is not None and first is not None:
        return {
            "reward_first": first.reward,
            "reward": asked.reward,
            "faultless_first": first.faultless,
            "faultless": asked.faultless,
            "answer_tokens_first": first.answer_tokens,
            "answer_tokens": asked.answer_tokens,
            "answers_divergence": asked.divergence,
        }
    reading = read_judged(run)
    if reading is None:
        return {}
    lengths = answer_lengths(context.loaded, run.judged)
    run.directory.record("answer_lengths", **vars(lengths))
    return vars(reading) | vars(lengths)


def _scaled_back(run: Run, reading: Reading | None) -> tuple[float, Reading | None]:
    """(share of the update that is kept, what the monitor reads then). reading: of the model as it is, where known.

    The result may spend `forgetting.final_share` of the run's budget; an update that spends more is scaled until it
    does not. With stories a run that moved fast and is then scaled back keeps more, at the same gain, than one held so
    near from the start; with positions it is the other way (docs/experiments.md).
    """
    monitor = run.monitor
    if monitor is None:
        return 1.0, None
    readings = [reading or monitor.read()]
    if not run.budget:
        return 1.0, readings[0]

    def read() -> float:
        readings.append(monitor.read())
        return readings[-1].spent

    allowed = run.budget * run.forgetting.final_share
    scaled = scale_back(run.model, readings[0].spent, allowed, read)
    # It may have gone back to an earlier scale.
    reading = next((one for one in readings if one.spent == scaled.divergence), readings[-1])
    if scaled.scale < 1:
        run.listener.notice(
            tr(
                "forgetting: the run ended outside of the {allowed:g} nats a token that its result may spend; "
                "{scale:.2f} of its update is kept, at {divergence:.3f}, and {furthest_divergence:.3f} for {furthest}, "
                "which moved furthest",
                allowed=allowed,
                scale=scaled.scale,
                divergence=reading.divergence,
                furthest=reading.furthest,
                furthest_divergence=reading.furthest_divergence,
            )
        )
    run.directory.record("scale", scale=scaled.scale, **vars(reading))
    return scaled.scale, reading


def _foreseen(run: Run, planned: MemoryPlan) -> dict[str, Any]:
    """What a page that watches the run compares its figures with."""
    return {
        "plan_bytes": planned.total_bytes,
        "budget_bytes": planned.budget_bytes,
        "kept_floor": run.forgetting.kept_floor if run.monitor else None,
        "scored_s": run.scored_s,
    }


def _write_result(context: RunContext, run: Run, planned: MemoryPlan, notes: dict[str, Any]) -> None:
    """Save what was trained: the adapter, with the switch where the run was guarded; or the whole model.

    notes: for its card.
    """
    form = adapter_form(context.config.lora, planned)
    if context.config.trains_weights:
        base_hash = {"base_hash": context.loaded.base_hash}
        save_whole_model(run.directory.model, context.base.path, run.model, form, notes | base_hash)
        return
    if context.config.vision.adapter_scope != "always":
        notes[ADAPTER_SCOPE] = context.config.vision.adapter_scope
    save_adapter(run.directory.adapter, run.model, form, context.loaded.base_hash, **notes)
    if context.config.is_guarded:
        _write_switch(context, run)


def _write_switch(context: RunContext, run: Run) -> None:
    """Save the switch, which decides for each prompt whether the adapter or the base answers."""
    if context.reader.shelf is not None:
        return  # a prompt's last state under the base says nothing of what a picture shows
    switch = switch_of(context, ChosenRows.joined([phase.rows for phase in run.phases]), run.rehearsed)
    if switch is None:
        return
    switch.save(run.directory.adapter)
    run.directory.record("switch", accuracy=switch.accuracy, prompts=list(switch.prompts))


def _finite_loss(run: Run) -> float | None:
    """The loss on the fixed rows after training; None where no row has an answer.

    Raises: Diverged when it is not finite: the last updates broke it.
    """
    losses = losses_of(run.model, run.rows.fixed, run.listener, tr("loss after"))
    if losses is None:
        return None
    loss = losses.nll_per_token
    if not math.isfinite(loss):
        raise Diverged(
            tr(
                "the loss after training is {loss}: the last updates broke it, and nothing was written; "
                "lower train.learning_rate and start again with another `out`",
                loss=loss,
            )
        )
    return loss


def _mean(phases: list[Phase], share: Callable[[Phase], float]) -> float:
    """Mean over phases, weighted by their numbers of rows."""
    return sum(share(phase) * len(phase.rows) for phase in phases) / sum(len(phase.rows) for phase in phases)


def _bits_to_quantize(shape: ModelShape, planned: MemoryPlan) -> int:
    """Bits to quantise the base to while it is read: 0 unless the plan needs a smaller base than the checkpoint."""
    if shape.quantization is not None or not planned.base_precision.endswith("-bit"):
        return 0
    return int(planned.base_precision.removesuffix("-bit"))
