"""Fine-tuning: what it will need, and the run itself."""

from __future__ import annotations

from pathlib import Path

from mlx_loopai.config import RunConfig, load_config
from mlx_loopai.guards.terms import memory_terms
from mlx_loopai.memory.corrections import read_corrections
from mlx_loopai.memory.machine import THIS, find_machine
from mlx_loopai.memory.plan import MemoryPlan
from mlx_loopai.memory.plan import plan as plan_run
from mlx_loopai.models.find_config import find_config
from mlx_loopai.models.shape import ModelShape
from mlx_loopai.runs.documents.run import Summary
from mlx_loopai.runs.listener import Listener, Silent


def plan(config: RunConfig | str | Path, machine: str = THIS, *, macos: int = 15) -> MemoryPlan:
    """The memory that a run of `config` needs, and the settings that fit. config: a configuration, or a recipe's path.

    machine: `this`, or a Mac such as `m4-16gb`, whose memory policy is that of `macos`. No weights are needed:
    `config.model` may also be a config.json, or a name such as Qwen2.5-3B-shape.

    Raises: InputError for an unknown model or machine, or a budget that cannot be read.
    """
    configuration, on = _configuration(config), find_machine(machine, macos)
    shape = ModelShape.from_config(*find_config(configuration.model))
    return plan_run(shape, configuration, on, memory_terms(configuration), corrections=read_corrections(shape, on))


def train(
    config: RunConfig | str | Path, out: str | Path, *, resume: bool = False, listener: Listener | None = None
) -> Summary:
    """Train an adapter into `out`/adapter and say how it went. config: a configuration, or a recipe's path.

    resume: go on from the last complete checkpoint in `out`. listener: hears stages and notices; nobody by default.

    Raises: InputError for wrong input; Interrupted after Ctrl-C, with a checkpoint saved; LoopaiError when the run does
    not fit into the memory, or its loss or its general ability is lost.
    """
    from mlx_loopai.training.run import train as train_run  # a plan need not wait for it

    return train_run(_configuration(config), Path(out), listener or Silent(), resume)


def _configuration(config: RunConfig | str | Path) -> RunConfig:
    return config if isinstance(config, RunConfig) else load_config(config)
