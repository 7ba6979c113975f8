"""Runs a comparison over arms, learning rates and seeds, resumably; rates are chosen by the domain score."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mlx_loopai.config import RunConfig
from mlx_loopai.errors import Diverged, LoopaiError
from mlx_loopai.evaluation.gain import smallest_within_noise
from mlx_loopai.evaluation.perplexity import RowLosses
from mlx_loopai.experiments.arms import MATCHED
from mlx_loopai.experiments.comparison import (
    POSTHOC,
    Arm,
    document,
    measure_base,
    measured_arm,
    rescaled_arm,
    trained_model,
)
from mlx_loopai.experiments.measurement import Measure, domain_losses
from mlx_loopai.language import tr
from mlx_loopai.runs.context import RunContext
from mlx_loopai.runs.directory import RunDirectory
from mlx_loopai.runs.documents.comparison import PLAIN, Comparison, TriedRate
from mlx_loopai.runs.documents.run import read_run
from mlx_loopai.runs.documents.summary import Summary
from mlx_loopai.runs.listener import Listener
from mlx_loopai.training.run import train_in


@dataclass(frozen=True)
class Trials:
    """The learning rates (empty: the arm's own) and seeds that are tried for every arm.

    sweep_seeds: how many of the seeds try the rates; the chosen rate is trained with all of them.
    """

    rates: Sequence[float]
    seeds: Sequence[int]
    sweep_seeds: int | None = None


@dataclass
class Grid:
    """Arms by name with the trials for each, trained under `out`.

    posthoc: held-out domain rows on which a rescaling of every arm is chosen after training; other rows than those of
    `measure`. "": no rescaling.
    """

    arms: Mapping[str, RunConfig]
    trials: Trials
    out: Path
    measure: Measure
    listener: Listener
    posthoc: str = ""
    tried: list[TriedRate] = field(default_factory=list)

    @cached_property
    def opened(self) -> RunContext:
        """The context that all runs share: one base, and every data file read once."""
        return RunContext.open(next(iter(self.arms.values())), RunDirectory(self.out), self.listener)

    def run(self) -> Comparison:
        """Train what is not yet trained, choose each arm's learning rate, measure, and return the comparison.

        The rate is the smallest whose domain score is within noise of the arm's best. It is chosen before anything
        general is measured. The arm `plain-matched` is plain at plain's rate with the most steps of any other.

        Raises: LoopaiError when an arm diverges at every rate or plain gains nothing; InputError when a folder under
        `out` holds a run of other settings or rows.
        """
        base = measure_base(self.opened, self.measure)
        chosen = {name: self._choose(name, config) for name, config in self.arms.items() if name != MATCHED}
        if MATCHED in self.arms:
            chosen[MATCHED] = self._match(chosen)
        arms = {
            name: [measured_arm(name, self._cell(name, one), self.measure) for one in self._seeded(chosen[name])]
            for name in self.arms
        }
        if self.posthoc:
            arms |= {f"{name}{POSTHOC}": self._rescaled(seeds) for name, seeds in arms.items()}
        return replace(document(base, arms, self.measure), seeds=tuple(self.trials.seeds), sweep=tuple(self.tried))

    def _rescaled(self, seeds: Sequence[Arm]) -> list[Arm]:
        return [rescaled_arm(arm, self.posthoc, self.measure) for arm in seeds]

    def _choose(self, name: str, config: RunConfig) -> RunConfig:
        """The arm's configuration at its learning rate, trained at every seed."""
        scored = {}
        for rate in self.trials.rates or (config.train.learning_rate,):
            losses = self._train(name, _with(config, learning_rate=rate), self.trials.seeds[: self.trials.sweep_seeds])
            if losses is not None:
                scored[rate] = losses
        if not scored:
            raise LoopaiError(
                tr("arm {name}: diverged at every learning rate; give smaller ones with `sweep`", name=name)
            )
        chosen = _with(config, learning_rate=smallest_within_noise(scored))
        rest = self.trials.seeds[len(next(iter(scored.values()))) :]
        if self._train(name, chosen, rest) is None:
            raise LoopaiError(
                tr("arm {name}: diverged at another seed; give smaller rates, or more `sweep_seeds`", name=name)
            )
        return chosen

    def _match(self, chosen: Mapping[str, RunConfig]) -> RunConfig:
        cells = [self._cell(name, one) for name, config in chosen.items() for one in self._seeded(config)]
        most = max(summary.steps for summary in map(_summary, cells) if summary is not None)
        config = _with(chosen[PLAIN], max_steps=most)
        if self._train(MATCHED, config, self.trials.seeds) is None:
            raise LoopaiError(
                tr("arm {matched}: diverged; leave it out of `arms`, or sweep smaller learning rates", matched=MATCHED)
            )
        return config

    def _train(self, name: str, config: RunConfig, seeds: Sequence[int]) -> list[RowLosses] | None:
        """The held-out losses of the arm at one rate, one entry per seed; None when a seed diverged."""
        losses = []
        for one in (_with(config, seed=seed) for seed in seeds):
            cell, rate, seed = self._cell(name, one), one.train.learning_rate, one.train.seed
            self.listener.notice(tr("arm {name}, learning rate {rate:g}, seed {seed}", name=name, rate=rate, seed=seed))
            if not finished(cell) and not self._trained(cell):
                return None
            losses.append(domain_losses(trained_model(cell), one, self.measure.domain, cell.directory.path))
            score = -losses[-1].nll_per_token
            self.tried.append(TriedRate(arm=name, learning_rate=rate, seed=seed, domain_score=score))
        return losses

    def _trained(self, cell: RunContext) -> bool:
        """Train and return whether the loss stayed finite: a rate that is too high must not end a sweep."""
        try:
            train_in(cell, resume=cell.directory.identity.exists())
        except Diverged as error:
            if len(self.trials.rates) < 2:
                raise
            self.listener.notice(tr("left out: {error}", error=error))
            return False
        return True

    def _seeded(self, config: RunConfig) -> list[RunConfig]:
        return [_with(config, seed=seed) for seed in self.trials.seeds]

    def _cell(self, name: str, config: RunConfig) -> RunContext:
        """The context of one run: an arm at one rate and one seed."""
        folder = self.out / name / f"lr-{config.train.learning_rate:g}" / f"seed-{config.train.seed}"
        return self.opened.for_run(config, RunDirectory(folder))


def finished(context: RunContext) -> bool:
    """Whether the context's folder holds the complete run of exactly its configuration and rows."""
    run = context.directory
    if not (run.result and run.identity.exists() and _summary(context)):
        return False
    identity = json.loads(run.identity.read_text(encoding="utf-8"))
    wanted = context.config.digest(), context.rows.digest
    return (identity["config_digest"], identity.get("rows_digest")) == wanted


def _summary(context: RunContext) -> Summary | None:
    """The run's summary; None while it is not complete."""
    return read_run(context.directory).summary


def _with(config: RunConfig, **train: Any) -> RunConfig:
    return config.model_copy(update={"train": config.train.model_copy(update=train)})
