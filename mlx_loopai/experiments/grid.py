"""A comparison over arms, learning rates and seeds: one run after another, resumable, rates chosen by the domain."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mlx_loopai.config import RunConfig
from mlx_loopai.data.tokens import ChatEncoder
from mlx_loopai.errors import Diverged, LoopaiError
from mlx_loopai.evaluation.perplexity import RowLosses
from mlx_loopai.evaluation.seeds import smallest_within_noise
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
from mlx_loopai.models.load import load_tokenizer, resolve_model
from mlx_loopai.runs.directory import RunDirectory
from mlx_loopai.runs.documents.comparison import PLAIN, Comparison, TriedRate
from mlx_loopai.runs.listener import Listener
from mlx_loopai.training.prepare import read_rows
from mlx_loopai.training.run import train


@dataclass
class Grid:
    """Arms by name, the learning rates to try (empty: each arm's own) and the seeds, trained under `out`.

    sweep_seeds: the rates are tried at so many of the seeds; the chosen one is trained at all of them.
    posthoc: held-out domain rows by which every arm is rescaled after training too; none of those that `measure` shows.
    """

    arms: Mapping[str, RunConfig]
    rates: Sequence[float]
    seeds: Sequence[int]
    out: Path
    measure: Measure
    listener: Listener
    sweep_seeds: int | None = None
    posthoc: str = ""
    tried: list[TriedRate] = field(default_factory=list)

    def run(self) -> Comparison:
        """Train what is not yet trained, choose each arm's learning rate, measure, and return the comparison.

        The rate is the smallest whose domain score is within noise of the arm's best. It is chosen before anything
        general is measured. The arm `plain-matched` is plain at plain's rate with the most steps of any other.

        Raises: LoopaiError when an arm diverges at every rate or plain gains nothing; InputError when a folder under
        `out` holds a run of other settings or rows.
        """
        base = measure_base(next(iter(self.arms.values())), self.measure, self.listener)
        chosen = {name: self._choose(name, config) for name, config in self.arms.items() if name != MATCHED}
        if MATCHED in self.arms:
            chosen[MATCHED] = self._match(chosen)
        arms = {
            name: [
                measured_arm(name, one, self._folder(name, one), self.measure, self.listener)
                for one in self._seeded(chosen[name])
            ]
            for name in self.arms
        }
        if self.posthoc:
            arms |= {f"{name}{POSTHOC}": self._rescaled(seeds) for name, seeds in arms.items()}
        return replace(document(base, arms, self.measure), seeds=tuple(self.seeds), sweep=tuple(self.tried))

    def _rescaled(self, seeds: Sequence[Arm]) -> list[Arm]:
        return [rescaled_arm(arm, self.posthoc, self.measure, self.listener) for arm in seeds]

    def _choose(self, name: str, config: RunConfig) -> RunConfig:
        """The arm's configuration at its learning rate, trained at every seed."""
        scored = {}
        for rate in self.rates or (config.train.learning_rate,):
            losses = self._train(name, _with(config, learning_rate=rate), self.seeds[: self.sweep_seeds])
            if losses is not None:
                scored[rate] = losses
        if not scored:
            raise LoopaiError(f"arm {name}: diverged at every learning rate; give smaller ones with `sweep`")
        chosen = _with(config, learning_rate=smallest_within_noise(scored))
        rest = self.seeds[len(next(iter(scored.values()))) :]
        if self._train(name, chosen, rest) is None:
            raise LoopaiError(f"arm {name}: diverged at another seed; give smaller rates, or more `sweep_seeds`")
        return chosen

    def _match(self, chosen: Mapping[str, RunConfig]) -> RunConfig:
        most = max(
            _done(self._folder(name, one))["steps"] for name, config in chosen.items() for one in self._seeded(config)
        )
        config = _with(chosen[PLAIN], max_steps=most)
        if self._train(MATCHED, config, self.seeds) is None:
            raise LoopaiError(f"arm {MATCHED}: diverged; leave it out of `arms`, or sweep smaller learning rates")
        return config

    def _train(self, name: str, config: RunConfig, seeds: Sequence[int]) -> list[RowLosses] | None:
        """The held-out losses of the arm at one rate, one a seed; None when a seed diverged."""
        encoder = ChatEncoder(load_tokenizer(resolve_model(config.model)), config.system_prompt)
        digest = read_rows(config, encoder, self.listener).digest
        losses = []
        for one in (_with(config, seed=seed) for seed in seeds):
            folder = self._folder(name, one)
            self.listener.notice(f"arm {name}, learning rate {one.train.learning_rate:g}, seed {one.train.seed}")
            if not finished(folder, one, digest) and not self._trained(one, folder):
                return None
            losses.append(domain_losses(trained_model(one, folder), one, self.measure.domain, folder))
            rate, seed, score = one.train.learning_rate, one.train.seed, -losses[-1].nll_per_token
            self.tried.append(TriedRate(arm=name, learning_rate=rate, seed=seed, domain_score=score))
        return losses

    def _trained(self, config: RunConfig, folder: Path) -> bool:
        """Train; whether the loss stayed finite. A rate too high for an arm is a result of a sweep, not its end."""
        try:
            train(config, folder, self.listener, resume=RunDirectory(folder).identity.exists())
        except Diverged as error:
            if len(self.rates) < 2:
                raise
            self.listener.notice(f"left out: {error}")
            return False
        return True

    def _seeded(self, config: RunConfig) -> list[RunConfig]:
        return [_with(config, seed=seed) for seed in self.seeds]

    def _folder(self, name: str, config: RunConfig) -> Path:
        return self.out / name / f"lr-{config.train.learning_rate:g}" / f"seed-{config.train.seed}"


def finished(folder: Path, config: RunConfig, rows_digest: str) -> bool:
    """Whether `folder` holds the complete run of exactly this configuration and these rows."""
    run = RunDirectory(folder)
    if not (run.adapter.exists() and run.identity.exists() and _done(folder)):
        return False
    identity = json.loads(run.identity.read_text(encoding="utf-8"))
    return (identity["config_digest"], identity.get("rows_digest")) == (config.digest(), rows_digest)


def _done(folder: Path) -> dict[str, Any]:
    return next((event for event in RunDirectory(folder).read_events() if event["event"] == "done"), {})


def _with(config: RunConfig, **train: Any) -> RunConfig:
    return config.model_copy(update={"train": config.train.model_copy(update=train)})
