"""The training loop: from a configuration to an adapter, checkpointed, resumable and recorded."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.optimizers as optimizers

from mlx_loopai.config import LoraOptions, RunConfig
from mlx_loopai.data.tokens import ChatEncoder, TokenRow
from mlx_loopai.errors import Interrupted, LoopaiError
from mlx_loopai.evaluation.perplexity import nll
from mlx_loopai.memory.guard import MemoryWatch, guarded
from mlx_loopai.memory.machine import this_machine
from mlx_loopai.memory.plan import MemoryPlan, plan
from mlx_loopai.models.adapters import save_adapter
from mlx_loopai.models.load import LoadedModel, load_model, load_tokenizer, resolve_model
from mlx_loopai.models.lora import apply_lora
from mlx_loopai.models.shape import ModelShape
from mlx_loopai.training.checkpoint import Position, latest_checkpoint, restore_checkpoint, save_checkpoint
from mlx_loopai.training.events import RunDirectory
from mlx_loopai.training.phases import Phase, learning_rate, plan_phases
from mlx_loopai.training.prepare import (
    Listener,
    Rows,
    check_identity,
    importance_of_base,
    read_rows,
    rehearsal_rows,
    selected_rows,
)
from mlx_loopai.training.regularizers import PENALTIES
from mlx_loopai.training.step import Penalty, StepResult, TrainStep

MOST_SKIPPED_STEPS = 10


@dataclass(frozen=True)
class Summary:
    """What a run did. `loss_first`, `loss_last`: nats per token on the same fixed rows before and after."""

    run: str
    steps: int
    loss_first: float
    loss_last: float
    validation_first: float | None
    validation_last: float | None
    supervised_tokens: int
    tokens_per_s: float
    real_token_share: float
    supervised_token_share: float
    peak_bytes: int
    plan_bytes: int
    resumed_from: str | None
    skipped_steps: int
    train_s: float


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

    @property
    def total_steps(self) -> int:
        return sum(len(phase.steps) for phase in self.phases)


def train(config: RunConfig, out: Path, listener: Listener, resume: bool = False) -> Summary:
    """Train an adapter into `out`/adapter and return the run's summary.

    Raises: InputError for wrong input; Interrupted after Ctrl-C, with a checkpoint saved; LoopaiError when no setting
    fits this machine's memory, the loss stays non-finite or memory runs out.
    """
    directory = RunDirectory(out)
    path = resolve_model(config.model)
    shape = ModelShape.from_folder(path)
    encoder = ChatEncoder(load_tokenizer(path), config.system_prompt)
    rows = read_rows(config, encoder, listener)
    memory = plan(shape, config, this_machine(), rows.longest).require_fit()
    with directory.locked(), guarded(memory) as watch:
        loaded = load_model(config.model, config.dtype, _bits_to_quantize(shape, memory, listener))
        check_identity(directory, config, loaded, rows, resume)
        mx.reset_peak_memory()
        run = _start(directory, config, loaded, encoder, rows, memory, watch, listener, resume)
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
) -> _Run:
    """The run at its first step, or where its last checkpoint left it."""
    started = time.perf_counter()
    rehearsal = rehearsal_rows(directory, config, loaded, encoder, listener)
    sources = selected_rows(config, loaded, rows, listener)
    lora = config.lora.model_copy(update={"layers": memory.lora_layers})
    apply_lora(loaded.model, lora, config.train.seed)
    penalty = None
    if config.penalty.kind in PENALTIES:
        importance = importance_of_base(directory, config, loaded, encoder, rehearsal, listener)
        penalty = PENALTIES[config.penalty.kind](importance)
    phases = plan_phases(config, sources, rehearsal, memory.micro_tokens)
    optimizer = optimizers.AdamW(config.train.learning_rate, weight_decay=config.train.weight_decay)
    optimizer.init(loaded.model.trainable_parameters())
    step = TrainStep(
        loaded.model,
        optimizer,
        clip=config.train.clip,
        chunk_rows=memory.chunk_rows,
        checkpointing=memory.checkpointing,
    )
    mx.random.seed(config.train.seed)
    checkpoint = latest_checkpoint(directory.checkpoints) if resume else None
    if checkpoint:
        position = restore_checkpoint(checkpoint, loaded.model, optimizer)
    else:
        if resume:
            listener.notice(f"{directory.path}: no complete checkpoint; starting over")
        position = Position(loss_first=_loss(loaded, rows.fixed), validation_first=_loss(loaded, rows.validation))
    step.skipped_steps = position.skipped_steps
    return _Run(
        directory, config, lora, loaded, phases, step, penalty, listener, memory, watch, started, checkpoint, position
    )


def _finish(run: _Run, rows: Rows) -> Summary:
    """Run the remaining steps, save the adapter, and say what happened."""
    before, loop_started = run.position.supervised_tokens, time.perf_counter()
    resumed_from = str(run.checkpoint) if run.checkpoint else None
    run.directory.record("start", resumed_from=resumed_from, total_steps=run.total_steps)
    _loop(run)
    loop_s = time.perf_counter() - loop_started
    loaded, position = run.loaded, run.position
    prompt = run.config.system_prompt
    save_adapter(run.directory.adapter, loaded.model, run.lora, loaded.base_hash, system_prompt=prompt)
    summary = Summary(
        run=str(run.directory.path),
        steps=position.step,
        loss_first=position.loss_first or 0.0,
        loss_last=_loss(loaded, rows.fixed) or 0.0,
        validation_first=position.validation_first,
        validation_last=_loss(loaded, rows.validation),
        supervised_tokens=position.supervised_tokens,
        tokens_per_s=(position.supervised_tokens - before) / max(loop_s, 1e-9),
        real_token_share=_mean(run.phases, lambda phase: phase.real_token_share),
        supervised_token_share=_mean(run.phases, lambda phase: phase.supervised_token_share),
        peak_bytes=mx.get_peak_memory(),
        plan_bytes=run.memory.total_bytes,
        resumed_from=resumed_from,
        skipped_steps=run.step.skipped_steps,
        train_s=time.perf_counter() - run.started,
    )
    run.directory.record("done", **vars(summary))
    return summary


def _loop(run: _Run) -> None:
    run.loaded.model.train()
    run.listener.stage("training", run.total_steps)
    with _interruptible() as interrupted:
        while run.position.phase < len(run.phases):
            phase = run.phases[run.position.phase]
            number = run.position.phase_step
            rate = learning_rate(run.config.train, phase.learning_rate, number, len(phase.steps))
            result = run.step(phase.batches(number), rate, run.penalty, phase.penalty_strength)
            _advance(run, phase, result, rate)
            _check_health(run, result)
            if interrupted():
                path = _save(run)
                raise Interrupted(f"stopped by Ctrl-C; saved {path}; go on with the same command and --resume")
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
    if result.skipped and run.step.skipped_steps >= MOST_SKIPPED_STEPS:
        raise LoopaiError(
            f"{run.step.skipped_steps} steps had a non-finite loss or gradient; the last good checkpoint stays in "
            f"{run.directory.checkpoints}; lower train.learning_rate and start again with another --out"
        )
    if run.watch.poll() == "stop":
        path = _save(run)
        raise LoopaiError(f"memory is about to run out ({run.watch.reason}); saved {path}; close programs and --resume")


def _save_is_due(run: _Run) -> bool:
    every = run.config.train.save_every
    return run.position.phase_step == 0 or bool(every and run.position.step % every == 0)


def _save(run: _Run) -> Path:
    keep = run.config.train.keep_checkpoints
    scratch = run.directory.path / ".checkpoint.tmp"
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


@contextmanager
def _interruptible() -> Iterator[Any]:
    """Within it Ctrl-C (or SIGTERM) only sets a flag: no step is left half done; a second one stops at once."""
    asked: list[int] = []

    def ask(number: int, _frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number in before:
            signal.signal(number, ask)
    except ValueError:  # not the main thread: the caller handles signals
        before = {}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
