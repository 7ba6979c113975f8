"""`plan`, `preview`, `train` and `compare`: what a run will need, the run itself, and several runs compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_loopai.config import RunConfig, load_config
from mlx_loopai.guards.terms import memory_terms
from mlx_loopai.memory.corrections import read_corrections
from mlx_loopai.memory.machine import THIS, find_machine, package_versions, this_machine
from mlx_loopai.memory.plan import MemoryPlan
from mlx_loopai.memory.plan import plan as plan_run
from mlx_loopai.memory.request import Known
from mlx_loopai.models.find_config import find_config
from mlx_loopai.models.load import NANO
from mlx_loopai.models.shape import ModelShape
from mlx_loopai.runs.directory import RunDirectory
from mlx_loopai.runs.documents.comparison import COMPARISON_NAME, Comparison
from mlx_loopai.runs.documents.summary import Summary
from mlx_loopai.runs.listener import Listener, Silent

if TYPE_CHECKING:
    from mlx_loopai.experiments.preview import Preview


def plan(config: RunConfig | str | Path, machine: str = THIS, *, macos: int = 15) -> MemoryPlan:
    """The memory that a run of `config` needs, and the settings that fit. config: a configuration, or a recipe's path.

    machine: `this`, or a Mac such as `m4-16gb`, whose memory policy is that of `macos`. No weights are needed:
    `config.model` may also be a config.json, or a name such as Qwen2.5-3B-shape.

    Raises: InputError for an unknown model or machine, or a budget that cannot be read.
    """
    configuration, on = _configuration(config), find_machine(machine, macos)
    shape = ModelShape.from_config(*find_config(configuration.model))
    known = Known(corrections=read_corrections(shape, on))
    return plan_run(shape, configuration, on, memory_terms(configuration.penalty, configuration.replay), known)


def preview(config: RunConfig | str | Path, machine: str = THIS, *, macos: int = 15) -> Preview:
    """As `plan`, with the time of the run where its rows are known, and the part of both that its guards take.

    Rows are read if the model is on this machine, since its tokenizer counts their tokens. Otherwise `train.max_steps`
    steps of rows of `train.max_tokens` are assumed. Raises: as `plan`; InputError when a data file cannot be read.
    """
    from mlx_loopai.experiments.preview import preview as preview_run  # a plan need not wait for it
    from mlx_loopai.experiments.preview import preview_of

    configuration, on = _configuration(config), find_machine(machine, macos)
    if configuration.sources and (configuration.model == NANO or Path(configuration.model).expanduser().is_dir()):
        from mlx_loopai.runs.context import RunContext

        return preview_of(RunContext.open(configuration, RunDirectory(Path()), Silent()), on)
    train_options = configuration.train
    lengths = [train_options.max_tokens] * train_options.rows_per_step if train_options.max_steps else []
    shape = ModelShape.from_config(*find_config(configuration.model))
    return preview_run(shape, configuration, on, Known(corrections=read_corrections(shape, on)), lengths, None)


def train(
    config: RunConfig | str | Path, out: str | Path, *, resume: bool = False, listener: Listener | None = None
) -> Summary:
    """Train an adapter into `out`/adapter and return the summary. config: a configuration, or a recipe's path.

    A run with guards is measured and judged at its end. The result is then a `JudgedSummary`, with retention, gain,
    samples and a verdict (`forgetting.questions: 0` leaves that out).

    resume: continue from the last complete checkpoint in `out`. listener: receives stages and notices; None: ignored.

    Raises: InputError for wrong input; Interrupted after Ctrl-C, with a checkpoint saved; LoopaiError when the run does
    not fit into memory, when its loss stays non-finite, or when it loses its general ability.
    """
    from mlx_loopai.experiments.judged_run import train_and_judge  # a plan need not wait for it

    return train_and_judge(_configuration(config), Path(out), listener or Silent(), resume)


def compare(
    config: RunConfig | str | Path,
    out: str | Path,
    arms: Sequence[str] = ("plain", "guarded"),
    *,
    seeds: int = 1,
    limit: int | None = None,
    listener: Listener | None = None,
) -> Comparison:
    """Train a recipe in several ways (arms) under `out`, and measure what each arm keeps and learns.

    arms: names that the help of `mlx-loopai compare` explains, or recipe files; `plain` is always included. seeds: runs
    of every arm. limit: at most that many questions of each task, for a quick look. Runs that are complete already are
    not repeated. `out`/compare.json keeps the result; `mlx-loopai report` makes a page of it.

    Raises: InputError for an unknown arm, or a configuration that names no held-out rows (`validation`); LoopaiError
    when plain LoRA gains nothing, so that nothing can be compared.
    """
    from mlx_loopai.experiments.arms import named_arms  # a plan need not wait for it
    from mlx_loopai.experiments.grid import Grid, Trials
    from mlx_loopai.experiments.measurement import measure_for

    configuration, folder = _configuration(config), Path(out)
    first = configuration.train.seed
    grid = Grid(
        arms=named_arms(configuration, arms),
        trials=Trials((), range(first, first + seeds)),
        out=folder,
        measure=measure_for(configuration, limit=limit),
        listener=listener or Silent(),
    )
    found = replace(grid.run(), versions=package_versions(), machine=this_machine().name)
    found.write(folder / COMPARISON_NAME)
    return found


def _configuration(config: RunConfig | str | Path) -> RunConfig:
    return config if isinstance(config, RunConfig) else load_config(config)
