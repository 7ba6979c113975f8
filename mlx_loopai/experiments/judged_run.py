"""Trains a guarded run and judges it: a short suite before and after, a few answers to read, and a verdict in words."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mlx_loopai.config import RunConfig
from mlx_loopai.errors import InputError
from mlx_loopai.evaluation.bootstrap import RESAMPLES, interval_of, item_times
from mlx_loopai.evaluation.gate import Gate
from mlx_loopai.evaluation.perplexity import RowLosses, nll
from mlx_loopai.evaluation.retention import Retention, chance_of_losing, retention
from mlx_loopai.evaluation.suite_run import SuiteResult
from mlx_loopai.evaluation.suites import default_suite, read_suite
from mlx_loopai.evaluation.tasks import Task
from mlx_loopai.experiments.evaluate import evaluation_of, note_on_card, switched
from mlx_loopai.experiments.noise_floor import left_by_noise, noise_floor
from mlx_loopai.experiments.preview import expect, notes_on_base, preview_of
from mlx_loopai.experiments.suite_answers import measure_suite, well_known
from mlx_loopai.experiments.verdict import verdict_on
from mlx_loopai.files import cache_folder
from mlx_loopai.generation.switch import SWITCH_FILE, Switch
from mlx_loopai.language import tr
from mlx_loopai.memory.machine import this_machine
from mlx_loopai.models.lora import adapter_disabled
from mlx_loopai.runs.context import RunContext
from mlx_loopai.runs.directory import EventSink, RunDirectory
from mlx_loopai.runs.documents.summary import Summary
from mlx_loopai.runs.documents.verdict import JudgedSummary, Sample
from mlx_loopai.runs.listener import Listener
from mlx_loopai.training.process_group import ALONE, ProcessGroup
from mlx_loopai.training.run import Trained, train_in
from mlx_loopai.training.samples import answers, base_answers, sample_prompts


def train_and_judge(
    config: RunConfig,
    out: Path,
    listener: Listener,
    resume: bool = False,
    group: ProcessGroup = ALONE,
    sinks: tuple[EventSink, ...] = (),
) -> Summary:
    """Train as `training.run.train` does; a run with guards is measured and judged too, and its verdict kept in `out`.

    sinks: receive the run's events. For the verdict, the base and the result each answer `forgetting.questions`
    questions of every kind; the base's answers are kept for other runs. Raises: as `train`.
    """
    context = RunContext.open(config, RunDirectory(out, group.rank == 0, sinks), listener)

    def begun(recorded: RunContext) -> None:
        needs = preview_of(recorded, this_machine()) if config.is_guarded else None
        for line in (*notes_on_base(config.model), *(needs.lines if needs else ())):
            recorded.listener.notice(line)
        expect(recorded, needs.time if needs else None)

    return judged_in(context, resume, group, begun)


def judged_in(
    context: RunContext,
    resume: bool = False,
    group: ProcessGroup = ALONE,
    begun: Callable[[RunContext], object] | None = None,
) -> Summary:
    """Train and judge the run of an opened context, as `train_and_judge` does. begun: see `train_in`."""
    started = time.perf_counter()
    trained = train_in(context, resume, group, begun)
    if not (context.config.is_judged and context.directory.writes):
        return trained.summary
    judged = judge(context.recorded(), trained)
    judged = replace(judged, minutes=(time.perf_counter() - started) / 60)
    judged.write(context.directory.verdict)
    context.directory.record("verdict", verdict=judged.verdict)
    return judged


def judge(context: RunContext, trained: Trained) -> JudgedSummary:
    """The verdict on the run that was just trained in `context`, whose model has the adapter on.

    Afterwards the weights of that model are rounded to 8 bits, so it must not be used any more.
    """
    named = default_suite(context.base.path)
    tasks = read_suite(named, context.config.forgetting.questions)
    samples = _samples(context)
    gain, gain_interval = _gain(context, trained)
    kept = _kept(context, named, tasks) if context.config.answers_text else _kept_by_the_base(context)
    judged = JudgedSummary(
        **vars(trained.summary), **kept, gain=gain, gain_interval=gain_interval, verdict="pass", samples=samples
    )
    verdict, reasons = verdict_on(judged, Gate.of(context.config.forgetting))
    return replace(judged, verdict=verdict, reasons=tuple(reasons))


def _kept(context: RunContext, named: str, tasks: Sequence[Task]) -> dict[str, Any]:
    """How much of the general ability is left, as fields of a `JudgedSummary`."""
    measured = _measured(context, tasks)
    if measured is None:
        return {}
    kept = retention(measured.base.tasks, measured.tuned.tasks)
    result, model = str(context.directory.result), context.config.model
    floor = noise_floor(context.loaded, context.encoder, measured.tasks, measured.base, context.listener)
    evaluation = evaluation_of(measured.base, measured.tuned, kept, suite=named, model=model, adapter=result)
    evaluation = replace(evaluation, **left_by_noise(floor))
    evaluation.write(context.directory.evaluation)
    note_on_card(evaluation)
    found: dict[str, Any] = {
        "retention": kept.mean,
        "retention_min": kept.minimum,
        "retention_interval": kept.interval,
        "worst_kind": kept.worst,
        "worst_chance": _worst_chance(kept),
    } | left_by_noise(floor)
    if measured.switched is not None and measured.switch is not None:
        with_switch = retention(measured.base.tasks, measured.switched.tasks)
        found |= {
            "switched_retention": with_switch.mean,
            "switched_retention_min": with_switch.minimum,
            "switch_accuracy": measured.switch.accuracy,
        }
    return found


def _kept_by_the_base(context: RunContext) -> dict[str, Any]:
    """The same fields for a run whose result takes no part in answers to text: there is nothing to measure."""
    context.listener.notice(tr("requests of text are answered by the base itself: all of its ability is kept"))
    return {"retention": 1.0, "retention_min": 1.0, "retention_interval": (1.0, 1.0)}


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """The tasks on which the base is well above chance, with the results of base, tuned model and switched model."""

    tasks: list[Task]
    base: SuiteResult
    tuned: SuiteResult
    switch: Switch | None
    switched: SuiteResult | None


def _measured(context: RunContext, tasks: Sequence[Task]) -> _Measured | None:
    """The results on `tasks`; None where the base is near chance on all of them, so that nothing can be lost."""
    loaded, encoder, listener = context.loaded, context.encoder, context.listener
    with adapter_disabled(loaded.model):
        base = measure_suite(loaded, encoder, tasks, listener, tr("the base"), cache_folder())
    try:
        chosen, base = well_known(tasks, base)
    except InputError as reason:
        listener.notice(str(reason))
        return None
    tuned = measure_suite(loaded, encoder, chosen, listener, tr("fine-tuned model"))
    switch = _switch(context)
    return _Measured(
        tasks=chosen,
        base=base,
        tuned=tuned,
        switch=switch,
        switched=None if switch is None else switched(base, tuned, switch, loaded, encoder),
    )


def _switch(context: RunContext) -> Switch | None:
    """The switch that the run wrote beside its adapter, if it had prompts to fit one."""
    folder = context.directory.adapter
    return Switch.load(folder, context.base.shape.hidden_size) if (folder / SWITCH_FILE).is_file() else None


def _worst_chance(kept: Retention) -> float:
    """The probability that any kind loses as much as the worst did (`chance_of_losing`, with Bonferroni's bound)."""
    worst = kept.per_task[kept.worst]
    return min(1.0, len(kept.per_task) * chance_of_losing(worst.right_to_wrong, worst.wrong_to_right))


def _gain(context: RunContext, trained: Trained) -> tuple[float | None, tuple[float, float] | None]:
    """Nats per token learnt on the held-out rows, and its 95 % interval over rows; None without such rows."""
    after, before = trained.held_out, trained.held_out_base
    if after is None:
        return None, None
    if before is None:
        model, rows, listener = context.loaded.model, context.rows.validation, context.listener
        listener.stage(tr("held-out rows before"), len(rows))
        with adapter_disabled(model):
            before = nll(model, rows, on_progress=listener.advance)
    return before.nll_per_token - after.nll_per_token, learnt_interval(before, after)


def learnt_interval(before: RowLosses, after: RowLosses) -> tuple[float, float]:
    """The 95 % interval of the difference of nats per token, over resampled rows."""
    times = item_times(len(before.tokens), np.random.default_rng(0), RESAMPLES)
    return interval_of(times @ (before.nll - after.nll) / (times @ before.tokens))


def _samples(context: RunContext) -> tuple[Sample, ...]:
    """The prompts that were asked at every save, answered by base and result."""
    prompts = sample_prompts(context)
    context.listener.stage(tr("answers to read"), 2 * len(prompts))
    loaded, encoder = context.loaded, context.encoder
    tuned, base = answers(loaded, encoder, prompts), base_answers(loaded, encoder, prompts)
    return tuple(prompt.sample(before, after) for prompt, before, after in zip(prompts, base, tuned, strict=True))
