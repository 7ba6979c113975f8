"""Estimates how long a run takes, as a range: its steps, and what its guards do before, during and after them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mlx_loopai.config import RunConfig
from mlx_loopai.data.held_out import MOST_HELD_OUT
from mlx_loopai.data.rows import FIXED_ROWS
from mlx_loopai.evaluation.suites import GENERAL, read_suite
from mlx_loopai.evaluation.tasks import Asked
from mlx_loopai.guards.rehearsal import CANDIDATES, WATCHED_ROWS
from mlx_loopai.language import later
from mlx_loopai.memory.machine import Machine
from mlx_loopai.memory.phases import PROMPT_TOKENS
from mlx_loopai.memory.plan import MemoryPlan
from mlx_loopai.memory.predict import QUANTIZED, weight_bytes
from mlx_loopai.memory.published import TrainerRun, published, step_operations
from mlx_loopai.memory.speed import Peak, measured_peak, peak_of
from mlx_loopai.models.load import NANO
from mlx_loopai.models.pass_sizes import ANSWERED_ROWS
from mlx_loopai.models.shape import ModelShape
from mlx_loopai.training.drawing import answers_read
from mlx_loopai.training.general_rows import prompts_needed
from mlx_loopai.training.monitor import readings_of
from mlx_loopai.units import Span

_HALF_BITS = 16
# The average answer has between a third of the token limit and all of it.
_SHORT_ANSWER = 1 / 3
# Where only the speed of matrix products was measured, a run may be this many times slower or faster.
_MEASURED_SPREAD = 4.0
# Operations a second with which NumPy finds eigenvectors: 4 to 5e10 on one core of an EPYC. A GPU takes no part.
_EIGENVECTORS_S = 4e10
# The phases that are not preparation.
_STEPS, _WATCHING, _MEASURING = later("training"), later("watching"), later("measuring before and after")
_DRAWING = later("drawing answers")
_SCORING = later("scoring rows before and after")
# How often the suite is asked: base, result, rounded base, and half for the switch, for which other answers are reused.
_TIMES_ASKED = 3.5


@dataclass(frozen=True)
class Work:
    """The work of a run: optimizer steps, the tokens of its own rows in each, and at most those of rehearsed rows.

    own_tokens: with the answers that the run draws itself, each as long as it may be.
    """

    steps: int
    own_tokens: int
    rehearsed_tokens: int


@dataclass(frozen=True)
class Speed:
    """The rates that a machine really reaches.

    flops_s, bytes_s: operations and bytes per second. step_s, token_s: additional seconds per step and per generated
    token. spread: largest over smallest time of the range. source: where the rates come from.
    """

    flops_s: float
    bytes_s: float
    step_s: float
    token_s: float
    spread: float
    source: str

    @staticmethod
    def of_chip(peak: Peak) -> Speed:
        """The speed of a chip of that peak, by the shares of a peak that published runs reached."""
        found = published()
        return Speed(
            flops_s=found.utilisation * peak.flops_s,
            bytes_s=found.decoding * peak.bytes_s,
            step_s=found.step_s,
            token_s=found.token_s,
            spread=found.spread,
            source=later("published rates of this chip"),
        )

    @staticmethod
    def measured_here(peak: Peak) -> Speed:
        """The speed of this machine, from the rates that a matrix product and a sum reached."""
        share = published().utilisation
        return Speed(
            flops_s=share * peak.flops_s,
            bytes_s=peak.bytes_s,
            step_s=0.0,
            token_s=published().token_s,
            spread=_MEASURED_SPREAD,
            source=later("matrix products measured here"),
        )


@dataclass(frozen=True)
class RunTime:
    """Seconds of each phase of a run. plain: what it would take without guards. spread, source: as in `Speed`."""

    phases: dict[str, Span]
    plain: Span
    steps: int
    source: str
    spread: float

    @property
    def total(self) -> Span:
        return sum(self.phases.values(), Span(0.0, 0.0))

    @property
    def parts(self) -> dict[str, tuple[float, float]]:
        """What `runs.remaining` expects: seconds at least and at most before, during and after the steps."""
        named = {_STEPS: "steps_s", _DRAWING: "steps_s", _WATCHING: "steps_s", _MEASURING: "after_s"}
        found = dict.fromkeys(("before_s", "steps_s", "after_s"), Span(0.0, 0.0))
        for name, span in self.phases.items():
            if name == _SCORING:  # half of it follows the steps, but is measured before them
                found["before_s"] += span.times(0.5)
                found["steps_s"] += span.times(0.5)
            else:
                found[named.get(name, "before_s")] += span
        return {part: (span.low_s, span.high_s) for part, span in found.items()}

    @property
    def guards(self) -> Span:
        """The time that guards add to training steps on the user's own rows."""
        total = self.total
        return Span(max(0.0, total.low_s - self.plain.low_s), max(0.0, total.high_s - self.plain.high_s))


def speed_of(machine: Machine) -> Speed:
    """The speed of a Mac by published rates; otherwise of this machine, measured in some tenths of a second."""
    peak = peak_of(machine)
    return Speed.measured_here(measured_peak()) if peak is None else Speed.of_chip(peak)


def work_of(config: RunConfig, lengths: Sequence[int], prompt_tokens: int = PROMPT_TOKENS) -> Work:
    """The work of a run of `config` on rows of these `lengths`, with general prompts of at most `prompt_tokens`."""
    train, replay = config.train, config.replay
    mean = sum(min(length, train.max_tokens) for length in lengths) / len(lengths)
    own = (
        config.preference.group * (mean + config.preference.answer_tokens) if config.preference.takes_prompts else mean
    )
    share = replay.share if config.needs_rehearsal else 0.0
    rehearsed = mean if replay.source == "records" else min(train.max_tokens, prompt_tokens + replay.answer_tokens)
    rows = train.epochs * len(lengths) / (1 - share)
    return Work(
        steps=train.max_steps or math.ceil(rows / train.rows_per_step),
        own_tokens=math.ceil(own * train.rows_per_step * (1 - share)),
        rehearsed_tokens=math.ceil(rehearsed * train.rows_per_step * share),
    )


def run_time(
    shape: ModelShape,
    config: RunConfig,
    planned: MemoryPlan,
    lengths: Sequence[int],
    speed: Speed,
    prompt_tokens: int = PROMPT_TOKENS,
) -> RunTime:
    """The time of a run of `config` as `planned`, on rows of these `lengths` in tokens.

    prompt_tokens: of the longest general prompt.
    """
    return _Clock(shape=shape, config=config, planned=planned, speed=speed, prompt_tokens=prompt_tokens).time(lengths)


@dataclass(frozen=True)
class _Clock:
    """Computes the times of a run's phases on a machine of that speed."""

    shape: ModelShape
    config: RunConfig
    planned: MemoryPlan
    speed: Speed
    prompt_tokens: int

    def time(self, lengths: Sequence[int]) -> RunTime:
        work = work_of(self.config, lengths, self.prompt_tokens)
        draws = self.config.preference.takes_prompts
        own = work.own_tokens * (_SHORT_ANSWER if draws else 1.0)
        least = math.ceil(own + _SHORT_ANSWER * work.rehearsed_tokens)
        training = self._steps(work, least).low_s, self._steps(work, work.own_tokens + work.rehearsed_tokens).high_s
        # Prompts have no answer to score.
        name, beside = (_DRAWING, self._drawing(work, lengths)) if draws else (_SCORING, self._scoring(lengths))
        plain, phases = self._steps(work, work.own_tokens) + beside, {_STEPS: Span(*training), name: beside}
        phases |= self._guards(work, len(lengths)) if self.config.is_guarded or self.config.watches else {}
        if self.config.is_judged and self.config.answers_text:
            phases[_MEASURING] = self._measuring()
        return RunTime(phases=phases, plain=plain, steps=work.steps, source=self.speed.source, spread=self.speed.spread)

    def _guards(self, work: Work, n_rows: int) -> dict[str, Span]:
        """The times of what guards do before and between the steps."""
        config, found = self.config, {}
        replay, read_tokens = config.replay, self.prompt_tokens + config.replay.answer_tokens
        n_prompts = prompts_needed(config, n_rows)
        if config.needs_rehearsal and replay.source != "records":
            found[later("rehearsal answers")] = self._answers(n_prompts, replay.answer_tokens)
            if replay.objective != "answers":
                found[later("the base's states")] = self._reading(n_prompts * read_tokens)
        if config.measures_importance:
            # Forward and back to every adapted layer.
            found[later("importance")] = self._reading(3 * config.penalty.sequences * config.train.max_tokens)
        if config.penalty.held_energy:
            options = self.planned.options
            operations = self.shape.lora_decompositions(options.lora_targets, self.planned.lora_layers)
            found[later("singular directions")] = self._span(operations / _EIGENVECTORS_S)
        if config.watches:
            every = config.forgetting.monitor_every
            readings = work.steps // every if every else readings_of(work.steps)
            found[_WATCHING] = self._reading((readings + CANDIDATES) * WATCHED_ROWS * read_tokens)
        return found

    def _steps(self, work: Work, tokens: int) -> Span:
        """Optimizer steps of that many tokens each."""
        options, rows, layers = self.planned.options, self.config.train.rows_per_step, self.planned.lora_layers
        quantized = self.shape.quantization or QUANTIZED.get(self.planned.base_precision)
        run = TrainerRun(
            shape=self.shape,
            bits=quantized.bits if quantized else _HALF_BITS,
            batch=rows,
            longest=math.ceil(tokens / rows),
            layers=self.shape.lora_layers(layers),
            lora_parameters=self.shape.lora_parameters(options.lora_rank, options.lora_targets, layers),
            checkpointing=self.planned.checkpointing,
        )
        return self._span(work.steps * (self.speed.step_s + step_operations(run) / self.speed.flops_s))

    def _scoring(self, lengths: Sequence[int]) -> Span:
        """The fixed rows, scored before the first step and after the last."""
        rows = min(FIXED_ROWS, len(lengths))
        tokens = rows * sum(min(length, self.config.train.max_tokens) for length in lengths) / len(lengths)
        return self._span(2 * 2.0 * self.shape.matrix_parameters * tokens / self.speed.flops_s)

    def _reading(self, tokens: int) -> Span:
        """A forward pass over at most that many tokens; rows are shorter as a rule."""
        seconds = 2.0 * self.shape.matrix_parameters * tokens / self.speed.flops_s
        return self._span(_SHORT_ANSWER * seconds, seconds)

    def _answers(self, prompts: int, tokens: int) -> Span:
        """Reading prompts and writing at most that many tokens to each, some prompts at a time."""
        rows = min(prompts, self.planned.rehearsal_rows or ANSWERED_ROWS)
        return self._written(prompts, rows, self.prompt_tokens, tokens)

    def _written(self, prompts: int, rows: int, prompt_tokens: int, tokens: int) -> Span:
        """As `_answers`, so many `rows` at a time, to prompts of at most `prompt_tokens`."""
        weights = weight_bytes(self.shape, self.planned.base_precision) / self.speed.bytes_s
        computed = 2.0 * self.shape.matrix_parameters * rows / self.speed.flops_s
        longest = math.ceil(prompts / rows) * tokens * (max(weights, computed) + self.speed.token_s)
        return self._reading(prompts * prompt_tokens) + self._span(_SHORT_ANSWER * longest, longest)

    def _drawing(self, work: Work, lengths: Sequence[int]) -> Span:
        """The answers that are drawn before each step, and those to held-out prompts before and after training."""
        config, preference = self.config, self.config.preference
        share = config.replay.share if config.needs_rehearsal else 0.0
        per_step = math.ceil(config.train.rows_per_step * (1 - share)) * preference.group
        held_out = min(MOST_HELD_OUT, math.ceil(config.validation_share * len(lengths)))
        read = held_out * answers_read(preference, held_out) if held_out else 0
        answers = work.steps * per_step + 2 * read
        rows = min(per_step, self.planned.sampling_rows)
        return self._written(answers, rows, max(lengths), preference.answer_tokens)

    def _measuring(self) -> Span:
        """The questions of the suite, which the base answers once for all runs."""
        suite = NANO if self.config.model == NANO else GENERAL
        asked = [task for task in read_suite(suite, self.config.forgetting.questions) if isinstance(task, Asked)]
        once = sum((self._answers(len(task.items), task.max_tokens) for task in asked), Span(0.0, 0.0))
        return Span(2 * once.low_s, _TIMES_ASKED * once.high_s)

    def _span(self, low_s: float, high_s: float | None = None) -> Span:
        half = math.sqrt(self.speed.spread)
        return Span(low_s / half, (low_s if high_s is None else high_s) * half)
