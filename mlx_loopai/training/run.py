"""The training loop: from a configuration to an adapter, checkpointed, resumable and recorded."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx

from mlx_loopai.config import LoraOptions, RunConfig
from mlx_loopai.data.batches import divided, share_in_file_order
from mlx_loopai.data.tokens import ChatEncoder, TokenRow
from mlx_loopai.errors import Diverged, InputError, Interrupted, LoopaiError
from mlx_loopai.evaluation.perplexity import nll
from mlx_loopai.guards.penalties import PENALTIES
from mlx_loopai.memory.corrections import read_corrections
from mlx_loopai.memory.machine import this_machine
from mlx_loopai.memory.plan import MemoryPlan, plan
from mlx_loopai.memory.watch import MemoryWatch, guarded
from mlx_loopai.models.adapters import save_adapter
from mlx_loopai.models.load import LoadedModel, load_model, load_tokenizer, resolve_model
from mlx_loopai.models.lora import apply_lora
from mlx_loopai.models.loss import LossTerms
from mlx_loopai.models.shape import ModelShape
from mlx_loopai.runs.directory import RunDirectory
from mlx_loopai.runs.documents.run import Summary
from mlx_loopai.runs.listener import Listener
from mlx_loopai.training.card import card_notes
from mlx_loopai.training.checkpoint import (
    Position,
    checkpoint_path,
    latest_checkpoint,
    restore_checkpoint,
    save_checkpoint,
)
from mlx_loopai.training.interrupt import interruptible
from mlx_loopai.training.monitor import Monitor, result_step, watched_rows
from mlx_loopai.training.optimizer import build_optimizer
from mlx_loopai.training.phases import Phase, learning_rate, plan_phases
from mlx_loopai.training.prepare import (
    Rows,
    check_identity,
    importance_of_base,
    read_rows,
    record_start,
    rehearsal_rows,
    selected_rows,
)
from mlx_loopai.training.process_group import ALONE, ProcessGroup
from mlx_loopai.training.step import Penalty, StepResult, StepSettings, TrainStep


@dataclass
class _Run:
    """A run in progress: what the loop needs and nothing else."""

    directory: RunDirectory
    config: RunConfig
    lora: LoraOptions
    loaded: LoadedModel
    phases: list[Phase]
    step: TrainStep
    penalty: Penalty | None
    listener: Listener
    memory: MemoryPlan
    watch: MemoryWatch
    started: float
    checkpoint: Path | None
    position: Position
    validation: list[TokenRow]
    group: ProcessGroup
    monitor: Monitor | None

    @property
    def total_steps(self) -> int:
        return sum(len(phase.steps) for phase in self.phases)


def train(
    config: RunConfig, out: Path, listener: Listener, resume: bool = False, group: ProcessGroup = ALONE
) -> Summary:
    """Train an adapter into `out`/adapter and return the run's summary; of several processes, rank 0 writes.

    Raises: InputError for wrong input; Interrupted after Ctrl-C, with a checkpoint saved; Diverged when the loss stays
    non-finite; LoopaiError when no setting fits this machine's memory, memory runs out, or the first reading of general
    ability is below the floor to which the run should roll back.
    """
    if group.size > 1 and config.lora.dropout:
        raise InputError(
            f"lora.dropout {config.lora.dropout:g} in {group.size} processes: each would drop other entries than one "
            "process alone; set lora.dropout to 0, or train in one process"
        )
    directory = RunDirectory(out, writes=group.rank == 0)
    path = resolve_model(config.model)
    shape = ModelShape.from_folder(path)
    encoder = ChatEncoder(load_tokenizer(path), config.system_prompt)
    rows = read_rows(config, encoder, listener)
    machine = this_machine()
    memory = plan(shape, config, machine, rows.longest, read_corrections(shape, machine)).require_fit()
    with directory.locked(), guarded(memory) as watch:
        loaded = load_model(config.model, config.dtype, _bits_to_quantize(shape, memory, listener))
        if directory.writes:
            check_identity(directory, config, loaded, rows, resume)
        mx.reset_peak_memory()
        run = _start(directory, config, loaded, encoder, rows, memory, watch, listener, resume, group)
        return _finish(run, rows)


def _start(
    directory: RunDirectory,
    config: RunConfig,
    loaded: LoadedModel,
    encoder: ChatEncoder,
    rows: Rows,
    memory: MemoryPlan,
    watch: MemoryWatch,
    listener: Listener,
    resume: bool,
    group: ProcessGroup,
) -> _Run:
    """The run at its first step, or where its last checkpoint left it."""
    started = time.perf_counter()
    if group.rank:
        group.barrier()  # rank 0 finds rehearsal and importance first; the others read its files
    rehearsal = rehearsal_rows(directory, config, loaded, encoder, listener, memory.rehearsal_rows)
    watched, rehearsal = watched_rows(directory, config, loaded, encoder, rehearsal, listener)
    sources = selected_rows(config, loaded, rows, listener)
    lora = config.lora.model_copy(update={"layers": memory.lora_layers})
    apply_lora(loaded.model, lora, config.train.seed)
    penalty = None
    if config.measures_importance:
        importance = importance_of_base(
            directory, config, loaded, encoder, rehearsal, listener, memory.importance_tokens
        )
        penalty = PENALTIES[config.penalty.kind](importance)
    mx.clear_cache()  # what the phases before the training kept is of other sizes
    phases = plan_phases(config, sources, rehearsal, memory.micro_tokens)
    if not group.rank:
        group.barrier()
    step = _step(config, memory, loaded, group)
    mx.random.seed(config.train.seed)
    checkpoint = latest_checkpoint(directory.checkpoints) if resume else None
    if checkpoint:
        position = restore_checkpoint(checkpoint, loaded.model, step.optimizer)
    else:
        if resume:
            listener.notice(f"{directory.path}: no complete checkpoint; starting over")
        position = Position(loss_first=_loss(loaded, rows.fixed), validation_first=_loss(loaded, rows.validation))
    step.skipped_steps = position.skipped_steps
    group.barrier()  # all have read the checkpoint before rank 0 writes the next
    return _Run(
        directory,
        config,
        lora,
        loaded,
        phases,
        step,
        penalty,
        listener,
        memory,
        watch,
        started,
        checkpoint,
        position,
        rows.validation,
        group,
        Monitor(loaded.model, watched, loaded.tokenizer) if watched else None,
    )


def _step(config: RunConfig, memory: MemoryPlan, loaded: LoadedModel, group: ProcessGroup) -> TrainStep:
    settings = StepSettings(
        clip=config.train.clip,
        chunk_rows=memory.chunk_rows,
        checkpointing=memory.checkpointing,
        terms=LossTerms(config.train.label_smoothing, config.train.z_loss),
        path=config.train.path,
    )
    return TrainStep(loaded.model, build_optimizer(config.train), settings, group)


def _finish(run: _Run, rows: Rows) -> Summary:
    """Run the remaining steps, save the adapter, and say what happened."""
    before, loop_started = run.position.supervised_tokens, time.perf_counter()
    resumed_from = str(run.checkpoint) if run.checkpoint else None
    run.directory.forget_after(run.position.step)
    record_start(run.directory, run.config, run.memory.machine, run.listener, resumed_from, run.total_steps)
    _loop(run)
    loop_s = time.perf_counter() - loop_started
    loaded, position = run.loaded, run.position
    chosen = result_step(run.config, position)
    if chosen is not None:
        restore_checkpoint(checkpoint_path(run.directory.checkpoints, chosen), loaded.model, run.step.optimizer)
    loss_last, validation_last = _finite_loss(run, rows.fixed), _loss(loaded, rows.validation)
    if run.directory.writes:
        losses = {"loss_first": position.loss_first, "loss_last": loss_last,
                  "validation_first": position.validation_first, "validation_last": validation_last}  # fmt: skip
        notes = card_notes(run.config, losses, run.monitor)
        save_adapter(run.directory.adapter, loaded.model, run.lora, loaded.base_hash, **notes)
    summary = Summary(
        run=str(run.directory.path),
        steps=position.step,
        loss_first=position.loss_first or 0.0,
        loss_last=loss_last,
        validation_first=position.validation_first,
        validation_last=validation_last,
        supervised_tokens=position.supervised_tokens,
        tokens_per_s=(position.supervised_tokens - before) / max(loop_s, 1e-9),
        real_token_share=_mean(run.phases, lambda phase: phase.real_token_share),
        mlx_lm_token_share=share_in_file_order(rows.lengths, run.config.train.rows_per_step),
        supervised_token_share=_mean(run.phases, lambda phase: phase.supervised_token_share),
        peak_bytes=mx.get_peak_memory(),
        plan_bytes=run.memory.total_bytes,
        resumed_from=resumed_from,
        skipped_steps=run.step.skipped_steps,
        train_s=time.perf_counter() - run.started,
        best_step=position.best_step,
        validation_best=position.best_validation,
    )
    run.directory.record("done", **summary.to_json())
    return summary


def _loop(run: _Run) -> None:
    run.loaded.model.train()
    run.listener.stage("training", run.total_steps)
    with interruptible() as interrupted:
        while run.position.phase < len(run.phases):
            phase = run.phases[run.position.phase]
            number = run.position.phase_step
            rate = learning_rate(run.config.train, phase.learning_rate, number, len(phase.steps))
            # Several machines must agree on the micro-batches that they share, whatever memory each has left.
            divisor = run.watch.micro_divisor if run.group.size == 1 else 1
            batches = divided(phase.batches(number), divisor)
            result = run.step(batches, rate, run.penalty, phase.penalty_strength)
            _advance(run, phase, result, rate)
            _check_health(run, result)
            if _validation_is_due(run):
                _validate(run)
            if _reading_is_due(run):
                _read_monitor(run)
            if run.group.any(interrupted()):
                path = _save(run)
                raise Interrupted(f"stopped by Ctrl-C; saved {path}; run it again with `resume` to go on")
            if _save_is_due(run):
                _save(run)
    run.loaded.model.eval()


def _advance(run: _Run, phase: Phase, result: StepResult, rate: float) -> None:
    position = run.position
    phase_step = position.phase_step + 1
    finished = phase_step == len(phase.steps)
    run.position = replace(
        position,
        step=position.step + 1,
        phase=position.phase + int(finished),
        phase_step=0 if finished else phase_step,
        skipped_steps=run.step.skipped_steps,
        supervised_tokens=position.supervised_tokens + result.supervised_tokens,
    )
    run.directory.record("step", step=run.position.step, phase=phase.name, learning_rate=rate, **vars(result))
    note = f"{phase.name}: loss {result.loss:.3f}" + (f", penalty {result.penalty:.4f}" if result.penalty else "")
    run.listener.advance(run.position.step, note)


def _check_health(run: _Run, result: StepResult) -> None:
    """Stop before the machine swaps or a diverged run wastes hours; what was good is on the disk."""
    if run.step.skipped_in_a_row >= run.config.train.max_skipped_steps:
        raise Diverged(
            f"{run.step.skipped_in_a_row} steps in a row had a non-finite loss or gradient; the last good checkpoint "
            f"stays in {run.directory.checkpoints}; lower train.learning_rate and start again with another `out`"
        )
    verdict = run.watch.poll()
    if verdict in ("warn", "shrink"):
        cure = "; MLX keeps less, and micro-batches get smaller" if verdict == "shrink" else ""
        run.listener.notice(f"memory is short: {run.watch.reason}{cure}")
    if run.group.any(verdict == "stop"):
        path = _save(run)
        raise LoopaiError(f"memory is about to run out ({run.watch.reason}); saved {path}; close programs and `resume`")


def _finite_loss(run: _Run, rows: list[TokenRow]) -> float:
    """The loss on `rows` after training. Raises: Diverged when it is not finite: the last updates were too large."""
    loss = _loss(run.loaded, rows)
    if loss is None or not math.isfinite(loss):
        raise Diverged(
            f"the loss after training is {loss}: the last updates broke the adapter, and it was not written; lower "
            "train.learning_rate and start again with another `out`"
        )
    return loss


def _validation_is_due(run: _Run) -> bool:
    every = run.config.train.validate_every
    return bool(every and run.position.step % every == 0)


def _validate(run: _Run) -> None:
    """Score the held-out rows, always the same in the same order; keep the best, and end when patience has run out."""
    position, found = run.position, _loss(run.loaded, run.validation)
    assert found is not None  # the configuration asks for held-out rows
    run.directory.record("validation", step=position.step, nll_per_token=found)
    if position.best_validation is None or found < position.best_validation:
        run.position = replace(position, best_validation=found, best_step=position.step, validations_since_best=0)
        _save(run)
        return
    since = position.validations_since_best + 1
    run.position = replace(position, validations_since_best=since)
    if run.config.train.patience and since >= run.config.train.patience:
        run.listener.notice(f"stopped early: {since} validations without a better one than step {position.best_step}'s")
        run.position = replace(run.position, phase=len(run.phases), phase_step=0)


def _reading_is_due(run: _Run) -> bool:
    every = run.config.forgetting.monitor_every
    return run.monitor is not None and (run.position.step % every == 0 or run.position.phase_step == 0)


def _read_monitor(run: _Run) -> None:
    """Read general ability; below the floor warn, or end the run, as `forgetting.on_floor` says."""
    assert run.monitor is not None
    reading, options, position = run.monitor.read(), run.config.forgetting, run.position
    run.directory.record("monitor", step=position.step, **vars(reading))
    if not run.group.any(reading.kept < options.kept_floor):
        run.position = replace(position, kept_step=position.step)
        if options.on_floor == "rollback":
            _save(run)
        return
    said = f"general ability: kept {reading.kept:.3f} at step {position.step}, below {options.kept_floor:g}"
    if options.on_floor == "rollback" and position.kept_step is None:
        raise LoopaiError(f"{said}, at the first reading; lower train.learning_rate or forgetting.monitor_every")
    then = {"warn": "", "stop": "; stopped here", "rollback": f"; back to step {position.kept_step}"}
    run.listener.notice(said + then[options.on_floor])
    if options.on_floor != "warn":
        run.position = replace(position, phase=len(run.phases), phase_step=0, fell_below=True)


def _save_is_due(run: _Run) -> bool:
    every = run.config.train.save_every
    return run.position.phase_step == 0 or bool(every and run.position.step % every == 0)


def _save(run: _Run) -> Path:
    keep = run.config.train.keep_checkpoints
    scratch = run.directory.path / ".checkpoint.tmp"
    if not run.directory.writes:
        return checkpoint_path(run.directory.checkpoints, run.position.step)
    path = save_checkpoint(run.directory.checkpoints, scratch, run.loaded.model, run.step.optimizer, run.position, keep)
    run.directory.record("checkpoint", path=str(path), step=run.position.step)
    return path


def _loss(loaded: LoadedModel, rows: list[TokenRow]) -> float | None:
    return nll(loaded.model, rows).nll_per_token if rows else None


def _mean(phases: list[Phase], share: Callable[[Phase], float]) -> float:
    """Mean over phases, each weighing as many rows as it has."""
    return sum(share(phase) * len(phase.rows) for phase in phases) / sum(len(phase.rows) for phase in phases)


def _bits_to_quantize(shape: ModelShape, memory: MemoryPlan, listener: Listener) -> int:
    """Bits to quantise the base to while it is read: 0 unless the plan needs a smaller base than the checkpoint."""
    if shape.quantization is not None or not memory.base_precision.endswith("-bit"):
        return 0
    listener.notice(f"memory: the base is quantised to {memory.base_precision} to fit; see mlx-loopai plan")
    return int(memory.base_precision.removesuffix("-bit"))
