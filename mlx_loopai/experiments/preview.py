"""Predicts what a run will need: its memory, its time, and how much of both is for its guards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mlx_loopai.config import RunConfig
from mlx_loopai.experiments.run_time import RunTime, Speed, run_time, speed_of
from mlx_loopai.experiments.verdict import too_few
from mlx_loopai.guards.terms import memory_terms
from mlx_loopai.language import tr
from mlx_loopai.memory.guard_terms import NO_GUARD
from mlx_loopai.memory.machine import Machine
from mlx_loopai.memory.phases import PROMPT_TOKENS
from mlx_loopai.memory.plan import MemoryPlan, plan
from mlx_loopai.memory.request import Known
from mlx_loopai.models.load import NANO
from mlx_loopai.models.shape import ModelShape
from mlx_loopai.runs.context import RunContext
from mlx_loopai.training.known import known_of
from mlx_loopai.units import Span, format_bytes


@dataclass(frozen=True)
class Preview:
    """The needs of a run. guards_bytes: memory that it needs for its guards. time: None where no rows are known."""

    plan: MemoryPlan
    guards_bytes: int
    time: RunTime | None

    @property
    def lines(self) -> list[str]:
        """The time, what the guards take of it, and whether there is too little to learn from, in words."""
        if self.time is None:
            return [tr("time: unknown without rows; name `sources`, or give train.max_steps")]
        total, source = self.time.total.text, tr(self.time.source)
        parts = ", ".join(f"{tr(name)} {span.text}" for name, span in self.time.phases.items())
        said = [
            tr("time: {total} for {steps} steps ({source}): {parts}", total=total, steps=self.time.steps, source=source,
               parts=parts)
        ]  # fmt: skip
        if len(self.time.phases) > 1:
            guards, size = self.time.guards.text, format_bytes(self.guards_bytes)
            if self.guards_bytes:
                said.append(tr("guards: {guards} of that, {size} more memory than without", guards=guards, size=size))
            else:
                said.append(tr("guards: {guards} of that, no more memory than without", guards=guards))
        if reason := too_few(self.time.steps):
            said.append(tr("too little data: {reason}", reason=reason))
        return said

    def to_json(self) -> dict[str, Any]:
        """`time`: seconds, each as [at least, at most]; None where no rows are known."""
        if self.time is None:
            return {"time": None, "guards_bytes": self.guards_bytes}
        phases = {name: _pair(span) for name, span in self.time.phases.items()}
        time = {
            "total_s": _pair(self.time.total),
            "guards_s": _pair(self.time.guards),
            "phases_s": phases,
            "steps": self.time.steps,
            "source": self.time.source,
        }
        return {"time": time, "guards_bytes": self.guards_bytes}


def preview(
    shape: ModelShape, config: RunConfig, machine: Machine, known: Known, lengths: Sequence[int], speed: Speed | None
) -> Preview:
    """The needs of a run of `config` on `machine`, on rows of these `lengths` in tokens (none: they are not known).

    speed: of the machine, where it was measured already. Raises: as `memory.plan.plan`.
    """
    planned = plan(shape, config, machine, memory_terms(config.penalty, config.replay), known)
    plain = plan(shape, config.without_guards(), machine, NO_GUARD, known)
    time = None
    if lengths:
        prompt = known.longest_prompt or PROMPT_TOKENS
        time = run_time(shape, config, planned, lengths, speed or speed_of(machine), prompt)
    return Preview(planned, max(0, planned.total_bytes - plain.total_bytes), time)


def preview_of(context: RunContext, machine: Machine, speed: Speed | None = None) -> Preview:
    """The needs of the run of an opened context, whose rows are read. Raises: InputError when they cannot be."""
    rows, shape = context.rows, context.base.shape
    known = known_of(context, machine)
    return preview(shape, context.config, machine, known, rows.lengths, speed)


def expect(context: RunContext, time: RunTime | None) -> None:
    """Note the run's expected time in its log, for those who wait for its end. The folder must be this run's."""
    if time is not None:
        context.directory.record("expected", **time.parts, spread=time.spread)


def notes_on_base(model: str) -> tuple[str, ...]:
    """What a person should know of the base that was chosen."""
    if model != NANO:
        return ()
    return (
        tr(
            "nano is a toy for trying the commands and cannot write for you; for real texts choose a model such as"
            " Qwen/Qwen2.5-1.5B-Instruct"
        ),
    )


def _pair(span: Span) -> list[float]:
    return [round(span.low_s, 1), round(span.high_s, 1)]
