"""What is decided before somebody's first run: a base that fits the machine, and how long training will take."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from mlx_loopai.config import RunConfig
from mlx_loopai.guards.terms import memory_terms
from mlx_loopai.memory.machine import Machine
from mlx_loopai.memory.plan import MemoryPlan, plan
from mlx_loopai.memory.predict import QUANTIZED
from mlx_loopai.memory.published import TrainerRun, published, step_seconds
from mlx_loopai.memory.sizes import FLOAT_BYTES
from mlx_loopai.memory.watch import guarded
from mlx_loopai.models.find_config import find_config
from mlx_loopai.models.known_shapes import known_config
from mlx_loopai.models.released import RELEASED, Released
from mlx_loopai.models.shape import ModelShape
from mlx_loopai.training.step_memory import measure_step, probed_options

_HALF_BITS = 16


@dataclass(frozen=True)
class Work:
    """What a run has to do: optimizer steps, and tokens of each, of the user's own rows and at most in all.

    Rehearsed rows are short as a rule; at most they are as long as the others.
    """

    steps: int
    own_tokens: int
    most_tokens: int


@dataclass(frozen=True)
class TimeEstimate:
    """Seconds of the training steps alone, from `low_s` to `high_s`, and what they follow from."""

    low_s: float
    high_s: float
    steps: int
    source: Literal["published rates of this chip", "two steps measured here"]


def proposed_base(config: RunConfig, machine: Machine) -> Released | None:
    """The largest released model with which a run of `config` fits `machine` unquantised; None when none does.

    Without a GPU it is the smallest: larger ones would fit, and would take days.
    """
    fitting = [model for model in RELEASED if _fits(model, config, machine)]
    if not fitting:
        return None
    return fitting[0] if machine.backend == "cpu" else fitting[-1]


def _fits(model: Released, config: RunConfig, machine: Machine) -> bool:
    shape = ModelShape.from_config(known_config(model.shape_name) or {})
    found = plan(shape, config, machine, memory_terms(config))
    return found.fits and found.base_precision in FLOAT_BYTES


def work_of(config: RunConfig, lengths: list[int]) -> Work:
    """The work of a run of `config` on rows of these `lengths` in tokens."""
    train = config.train
    mean = sum(min(length, train.max_tokens) for length in lengths) / len(lengths)
    rehearsed = config.replay.share if config.replay.source != "none" else 0.0
    rows = train.epochs * len(lengths) / (1 - rehearsed)
    return Work(
        steps=train.max_steps or math.ceil(rows / train.rows_per_step),
        own_tokens=math.ceil(mean * train.rows_per_step * (1 - rehearsed)),
        most_tokens=math.ceil(mean * train.rows_per_step),
    )


def published_time(shape: ModelShape, planned: MemoryPlan, work: Work, rows: int, teraflops: float) -> TimeEstimate:
    """The time on a chip of that 16-bit peak by published rates, with the range that holds 80 % of them.

    rows: of a step. Source: `memory.published`, which says what it was fitted to.
    """
    constants, options = published(), planned.options
    quantized = shape.quantization or QUANTIZED.get(planned.base_precision)
    run = TrainerRun(
        shape=shape,
        bits=quantized.bits if quantized else _HALF_BITS,
        batch=rows,
        longest=math.ceil(work.most_tokens / rows),
        layers=shape.lora_layers(planned.lora_layers),
        lora_parameters=shape.lora_parameters(options.lora_rank, options.lora_targets, planned.lora_layers),
        checkpointing=planned.checkpointing,
    )
    least = replace(run, longest=math.ceil(work.own_tokens / rows))
    low, high = (work.steps * step_seconds(one, teraflops, constants) for one in (least, run))
    half = math.sqrt(constants.spread)
    return TimeEstimate(low / half, high * half, work.steps, "published rates of this chip")


def measured_time(model: str, config: RunConfig, planned: MemoryPlan, work: Work) -> TimeEstimate:
    """The time by two steps of a model of the same sizes here: the planned micro-batch, and a smaller one.

    The upper end adds what a guard reads: the base sees the rehearsed rows as well, half of a LoRA step's work.
    """
    sizes, _ = find_config(model)
    with guarded(planned):
        token_s = [measure_step(sizes, one).step_s / one.micro_tokens for one in probed_options(planned)]
    guards = 1 + config.replay.share / 2 if config.replay.objective == "kl" else 1.0
    low, high = min(token_s) * work.own_tokens, max(token_s) * work.most_tokens * guards
    return TimeEstimate(work.steps * low, work.steps * high, work.steps, "two steps measured here")
