"""The loop over a run's steps: train, watch memory and general ability, score held-out rows, save."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn

from mlx_loopai.config import ForgettingOptions, TrainOptions
from mlx_loopai.data.batches import divided
from mlx_loopai.data.rows import Rows
from mlx_loopai.data.tokens import TokenRow
from mlx_loopai.errors import Diverged, Interrupted, LoopaiError
from mlx_loopai.evaluation.perplexity import RowLosses, nll
from mlx_loopai.guards.budget import READINGS_OUTSIDE, allowed
from mlx_loopai.guards.guard import Penalty
from mlx_loopai.language import tr
from mlx_loopai.memory.watch import MemoryWatch
from mlx_loopai.runs.directory import RunDirectory
from mlx_loopai.runs.listener import Listener, Silent
from mlx_loopai.training.checkpoint import Position, checkpoint_path, save_checkpoint
from mlx_loopai.training.drawing import Drawer, Drawn
from mlx_loopai.training.drawn_step import remembering
from mlx_loopai.training.interrupt import interruptible
from mlx_loopai.training.judgement import JudgedReading, PromptReading
from mlx_loopai.training.monitor import Monitor, Reading, steps_between_readings
from mlx_loopai.training.phases import Phase, learning_rate, rate_still_to_fall
from mlx_loopai.training.process_group import ProcessGroup
from mlx_loopai.training.reference import judged_reading
from mlx_loopai.training.samples import Samples
from mlx_loopai.training.step import NOTHING_LEARNT, StepResult, TrainStep


@dataclass(kw_only=True)
class Run:
    """A run in progress.

    budget: nats per token that its guards may let it spend; 0 where they keep their configured strength. judged:
    held-out pairs and labelled answers, with the base's log-probabilities of them. drawer: answers the prompts of a run
    that learns from its own answers; None for any other. stops_at_budget: whether leaving the budget ends the run.
    checkpoint: the one that it was resumed from. started: `time.perf_counter()` before its preparation. scored_s:
    seconds of the first passes over fixed and held-out rows; None where a checkpoint held their result. held_out_base:
    the base's losses on the held-out rows, where they are known. rehearsed: the rehearsal rows, those that are watched
    included. last_reading: the monitor's, with the step after which it was taken.
    """

    model: nn.Module
    rows: Rows
    train: TrainOptions
    forgetting: ForgettingOptions
    budget: float
    directory: RunDirectory
    listener: Listener
    watch: MemoryWatch
    group: ProcessGroup
    step: TrainStep
    penalty: Penalty | None
    phases: list[Phase]
    monitor: Monitor | None
    judged: list[TokenRow]
    drawer: Drawer | None
    stops_at_budget: bool
    checkpoint: Path | None
    position: Position
    started: float
    scored_s: float | None
    held_out_base: RowLosses | None
    rehearsed: list[TokenRow]
    last_reading: tuple[int, Reading] | None = None

    @property
    def total_steps(self) -> int:
        return sum(len(phase.steps) for phase in self.phases)


def run_steps(run: Run, samples: Samples) -> None:
    """Run every step that is left, and after each what is due: validation, a monitor reading, a checkpoint.

    samples: answered and recorded with a checkpoint while somebody watches the run's page.

    Raises: Interrupted after Ctrl-C, with a checkpoint saved; Diverged when the loss stays non-finite; LoopaiError when
    memory runs out, or the first reading of general ability is below the floor to which the run should roll back.
    """
    run.model.train()
    run.listener.stage(tr("training"), run.total_steps)
    with interruptible() as interrupted:
        while run.position.phase < len(run.phases):
            phase = run.phases[run.position.phase]
            number = run.position.phase_step
            rate = learning_rate(run.train, phase.learning_rate, number, len(phase.steps))
            result, drawn = _stepped(run, phase, rate)
            _advance(run, phase, result, drawn, rate)
            _check_health(run, result)
            if _validation_is_due(run):
                _validate(run)
            if _reading_is_due(run):
                _read_monitor(run)
            wish = run.directory.take_wish()
            if run.group.any(wish == "stop"):
                path = _save(run)
                raise Interrupted(tr("stopped from the page; saved {path}; `resume` continues the run", path=path))
            if run.group.any(interrupted()):
                path = _save(run)
                raise Interrupted(tr("stopped by Ctrl-C; saved {path}; `resume` continues the run", path=path))
            if _save_is_due(run) or wish == "save":
                _save(run)
                if run.directory.is_watched:
                    answers = [vars(one) for one in samples.read()]
                    run.directory.record("samples", step=run.position.step, answers=answers)
    run.model.eval()


def _stepped(run: Run, phase: Phase, rate: float) -> tuple[StepResult, Drawn | None]:
    """(the result of the next optimizer step, the answers that it was about where the model writes them itself)."""
    number, guards = run.position.phase_step, run.position.guards.factor
    prompts = phase.prompts(number) if run.drawer else []
    drawn = run.drawer.draw(prompts, run.position.step) if run.drawer and prompts else None
    # Several machines must agree on the micro-batches that they share, whatever memory each has left.
    divisor = run.watch.micro_divisor if run.group.size == 1 else 1
    batches = divided(phase.batches(number, guards, drawn.batches if drawn else ()), divisor)
    # Where all answers to each prompt are equally good, rehearsal alone would only take back what was learnt before.
    if drawn and all(batch.rehearsal is not None and batch.rehearsal.all() for batch in batches):
        return NOTHING_LEARNT, drawn
    updates = run.step.settings.preference.updates if drawn else 1
    if updates > 1:
        batches = remembering(run.model, batches, run.step.settings.chunk_rows)
    for _ in range(updates):
        result = run.step(batches, rate, run.penalty, phase.strength * guards)
    return result, drawn


def _advance(run: Run, phase: Phase, result: StepResult, drawn: Drawn | None, rate: float) -> None:
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
    memory = {
        "memory_bytes": mx.get_active_memory() + mx.get_cache_memory(),
        "peak_bytes": mx.get_peak_memory(),
    }
    told = vars(result) | (drawn.figures if drawn else {}) | memory
    run.directory.record("step", step=run.position.step, phase=phase.name, learning_rate=rate, **told)
    run.listener.advance(run.position.step, _note(phase, result, drawn))


def _note(phase: Phase, result: StepResult, drawn: Drawn | None) -> str:
    """What is said of a step beside its progress."""
    if drawn:
        note = tr(
            "{name}: reward {reward:.3f}, {tokens:.0f} tokens an answer",
            name=phase.name,
            reward=drawn.reward,
            tokens=drawn.answer_tokens,
        )
    else:
        note = tr("{name}: loss {loss:.3f}", name=phase.name, loss=result.loss)
    return note + (tr(", penalty {penalty:.4f}", penalty=result.penalty) if result.penalty else "")


def _check_health(run: Run, result: StepResult) -> None:
    """Stop before the machine swaps or a diverged run wastes hours; what was good is on the disk."""
    if run.step.skipped_in_a_row >= run.train.max_skipped_steps:
        raise Diverged(
            tr(
                "{skipped_in_a_row} steps in a row had a non-finite loss or gradient; the last good checkpoint "
                "stays in {checkpoints}; lower train.learning_rate and start again with another `out`",
                skipped_in_a_row=run.step.skipped_in_a_row,
                checkpoints=run.directory.checkpoints,
            )
        )
    verdict = run.watch.poll()
    if verdict in ("warn", "shrink"):
        cure = tr("; the cache and the micro-batches get smaller") if verdict == "shrink" else ""
        run.listener.notice(tr("memory is short: {reason}{cure}", reason=run.watch.reason, cure=cure))
    if run.group.any(verdict == "stop"):
        path = _save(run)
        raise LoopaiError(
            tr(
                "memory is about to run out ({reason}); saved {path}; close programs and `resume`",
                reason=run.watch.reason,
                path=path,
            )
        )


def _validation_is_due(run: Run) -> bool:
    every = run.train.validate_every
    return bool(every and run.position.step % every == 0)


def _validate(run: Run) -> None:
    """Score the held-out rows, always the same in the same order; keep the best, and end when patience has run out."""
    read_asked(run, Silent())  # a stage of its own would take the place of the steps' progress
    if not run.rows.validation:
        return
    position, found = run.position, nll(run.model, run.rows.validation).nll_per_token
    run.directory.record("validation", step=position.step, nll_per_token=found)
    read_judged(run)
    if position.best_validation is None or found < position.best_validation:
        run.position = replace(position, best_validation=found, best_step=position.step, validations_since_best=0)
        _save(run)
        return
    since = position.validations_since_best + 1
    run.position = replace(position, validations_since_best=since)
    if run.train.patience and since >= run.train.patience:
        run.listener.notice(
            tr(
                "stopped early: no validation was better than that of step {best_step} for {since} in a row",
                best_step=position.best_step,
                since=since,
            )
        )
        run.position = replace(run.position, phase=len(run.phases), phase_step=0)


def read_judged(run: Run) -> JudgedReading | None:
    """How the held-out judged answers stand now, recorded; None where there are none."""
    if not run.judged:
        return None
    found = judged_reading(run.model, run.judged)
    run.directory.record("preference", step=run.position.step, **vars(found))
    return found


def read_asked(run: Run, listener: Listener) -> PromptReading | None:
    """How held-out prompts are answered now, recorded; None where there are none, or the run answers none.

    listener: hears of the answers, as a stage of its own.
    """
    if run.drawer is None or not run.rows.asked:
        return None
    found = run.drawer.read(run.rows.asked, listener)
    run.directory.record("prompts", step=run.position.step, **vars(found))
    return found


def _reading_is_due(run: Run) -> bool:
    if run.monitor is None:
        return False
    done = run.position.phase_step
    if done == 0:  # a phase has just ended
        return True
    every = run.forgetting.monitor_every
    if every:
        return run.position.step % every == 0
    return done % steps_between_readings(done, len(run.phases[run.position.phase].steps)) == 0


def _read_monitor(run: Run) -> None:
    """Read general ability, and let the guards weigh what the budget asks for.

    Below the floor warn, or end the run, as `forgetting.on_floor` says.
    """
    assert run.monitor is not None
    reading, options, guards = run.monitor.read(), run.forgetting, run.position.guards
    run.last_reading = run.position.step, reading
    if run.budget:
        guards = guards.after(reading.spent, run.budget, run.position.step, _rate_still_to_fall(run))
    position = run.position = replace(run.position, guards=guards)
    run.directory.record("monitor", step=position.step, guards=guards.factor, **vars(reading))
    if run.stops_at_budget and _left_budget(run, reading):
        return
    position = run.position
    if not run.group.any(reading.kept < options.kept_floor):
        run.position = replace(position, kept_step=position.step)
        if options.on_floor == "rollback":
            _save(run)
        return
    said = tr(
        "general ability: kept {kept:.3f} at step {step}, below {kept_floor:g} ({furthest} moved furthest)",
        kept=reading.kept,
        step=position.step,
        kept_floor=options.kept_floor,
        furthest=reading.furthest,
    )
    if options.on_floor == "rollback" and position.kept_step is None:
        raise LoopaiError(
            tr("{said}, at the first reading; lower train.learning_rate or forgetting.monitor_every", said=said)
        )
    then = {
        "warn": "",
        "stop": tr("; stopped here"),
        "rollback": tr("; back to step {kept_step}", kept_step=position.kept_step),
    }
    run.listener.notice(said + then[options.on_floor])
    if options.on_floor != "warn":
        run.position = replace(position, phase=len(run.phases), phase_step=0, fell_below=True)


def _left_budget(run: Run, reading: Reading) -> bool:
    """Whether this reading ends the run, since its guards do not hold it inside the budget.

    A reading is outside when it is above what the guards allow at this moment. One may be chance, or be answered by the
    guards; the second in a row ends the run. A checkpoint is saved at every reading inside the budget itself.
    """
    limit = allowed(run.budget, _rate_still_to_fall(run))
    outside = run.position.outside + 1 if reading.spent > limit else 0
    run.position = position = replace(run.position, outside=outside)
    if reading.spent <= run.budget:
        run.position = replace(position, inside_step=position.step)
        _save(run)
    if outside < READINGS_OUTSIDE:
        return False
    run.position = replace(position, phase=len(run.phases), phase_step=0, left_budget=True)
    run.directory.record("stopped", step=position.step, by="budget", spent=reading.spent, limit=limit)
    then = (
        tr("the run's result is step {inside_step}, the last inside it", inside_step=position.inside_step)
        if position.inside_step is not None
        else tr("no reading was inside it, so the update is scaled back")
    )
    run.listener.notice(
        tr(
            "forgetting: the run left its budget of {budget:g} nats a token at step {step}: {spent:.3f}, where the "
            "guards allow {limit:.3f}, for {readings} readings in a row; stopped here, {then}",
            budget=run.budget,
            step=position.step,
            spent=reading.spent,
            limit=limit,
            readings=outside,
            then=then,
        )
    )
    return True


def _rate_still_to_fall(run: Run) -> float:
    """Share of the peak rate that is still to fall in this phase; in the next, where a phase has just ended."""
    position = run.position
    if position.phase == len(run.phases):
        return 0.0
    return rate_still_to_fall(run.train, position.phase_step, len(run.phases[position.phase].steps))


def _save_is_due(run: Run) -> bool:
    every = run.train.save_every
    return run.position.phase_step == 0 or bool(every and run.position.step % every == 0)


def _save(run: Run) -> Path:
    keep = run.train.keep_checkpoints
    scratch = run.directory.path / ".checkpoint.tmp"
    if not run.directory.writes:
        return checkpoint_path(run.directory.checkpoints, run.position.step)
    path = save_checkpoint(run.directory.checkpoints, scratch, run.model, run.step.optimizer, run.position, keep)
    run.directory.record("checkpoint", path=str(path), step=run.position.step)
    return path


def losses_of(model: nn.Module, rows: list[TokenRow], listener: Listener, stage: str) -> RowLosses | None:
    """The losses of `rows`, as a `stage` of its own; None without rows."""
    if not rows:
        return None
    listener.stage(stage, len(rows))
    return nll(model, rows, on_progress=listener.advance)
