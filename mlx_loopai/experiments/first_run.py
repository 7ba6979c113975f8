"""Choices before a first run: proposes a base that fits the machine, and measures the machine's training speed."""

from __future__ import annotations

from dataclasses import replace

from mlx_loopai.config import RunConfig
from mlx_loopai.experiments.run_time import Speed
from mlx_loopai.guards.terms import memory_terms
from mlx_loopai.language import later
from mlx_loopai.memory.machine import Machine
from mlx_loopai.memory.plan import MemoryPlan, plan
from mlx_loopai.memory.published import TrainerRun, step_operations
from mlx_loopai.memory.sizes import FLOAT_BYTES, StepOptions
from mlx_loopai.memory.watch import guarded
from mlx_loopai.models.find_config import find_config
from mlx_loopai.models.known_shapes import known_config
from mlx_loopai.models.released import RELEASED, Released
from mlx_loopai.models.shape import ModelShape
from mlx_loopai.training.step_memory import measure_step, probed_options

_HALF_BITS = 16
# Largest over smallest time to expect, since the machine may do other work than while the steps were measured.
_STEPS_SPREAD = 2.5


def proposed_base(config: RunConfig, machine: Machine) -> Released | None:
    """The largest released model with which a run of `config` fits `machine` unquantised; None when none does.

    Without a GPU it is the smallest: larger ones would fit, but take days.
    """
    fitting = [model for model in RELEASED if _fits(model, config, machine)]
    if not fitting:
        return None
    return fitting[0] if machine.backend == "cpu" else fitting[-1]


def _fits(model: Released, config: RunConfig, machine: Machine) -> bool:
    shape = ModelShape.from_config(known_config(model.shape_name) or {})
    found = plan(shape, config, machine, memory_terms(config.penalty, config.replay))
    return found.fits and found.base_precision in FLOAT_BYTES


def speed_by_steps(model: str, planned: MemoryPlan, speed: Speed) -> Speed:
    """`speed`, corrected by two measured steps of a model of the same sizes: the planned micro-batch, and a smaller."""
    sizes, _ = find_config(model)
    shape = ModelShape.from_config(sizes)
    with guarded(planned):
        rates = [_operations(shape, one) / measure_step(sizes, one).step_s for one in probed_options(planned)]
    # The first use of a size takes longer; a run meets each many times.
    return replace(speed, flops_s=max(rates), step_s=0.0, spread=_STEPS_SPREAD, source=later("two steps measured here"))


def _operations(shape: ModelShape, options: StepOptions) -> float:
    return step_operations(
        TrainerRun(
            shape=shape,
            bits=_HALF_BITS,
            batch=options.micro_tokens // options.width,
            longest=options.width,
            layers=shape.lora_layers(options.lora_layers),
            lora_parameters=0,
            checkpointing=options.checkpointing,
        )
    )
