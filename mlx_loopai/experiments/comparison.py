"""Arms side by side: the same base and domain rows, trained in different ways, measured the same way."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mlx_loopai.config import RunConfig
from mlx_loopai.data.sources import read_source
from mlx_loopai.evaluation.measure import comparable
from mlx_loopai.evaluation.probes import ProbeResult
from mlx_loopai.evaluation.seeds import gain_over_seeds, retention_over_seeds
from mlx_loopai.experiments.measurement import Measure, Measurement, measure_model
from mlx_loopai.experiments.rescaling import Rescaling, rescaled
from mlx_loopai.experiments.step_cost import step_costs
from mlx_loopai.experiments.tune import tune
from mlx_loopai.files import cache_folder, write_whole
from mlx_loopai.models.adapters import load_adapter, note_retention
from mlx_loopai.models.load import LoadedModel, load_model
from mlx_loopai.runs.directory import RunDirectory
from mlx_loopai.runs.documents.comparison import BASE, PLAIN, ArmResult, Comparison, RescalingFactors, SeedResult
from mlx_loopai.runs.documents.events import Step
from mlx_loopai.runs.documents.figures import TaskScore
from mlx_loopai.runs.documents.run import read_run
from mlx_loopai.runs.listener import Listener
from mlx_loopai.training.card import retention_figures
from mlx_loopai.training.run import train

POSTHOC = "+posthoc"


@dataclass(frozen=True)
class Arm:
    """One trained arm at one seed. `curve`: the run's steps; times in seconds.

    rescaled: the arm of which this one is rescaled after training, by what `rescaling` says; `folder` is that arm's.
    """

    name: str
    config: RunConfig
    folder: Path
    measured: Measurement
    train_s: float
    curve: tuple[Step, ...]
    rescaled: str | None = None
    rescaling: Rescaling | None = None


def compare(configs: dict[str, RunConfig], out: Path, measure: Measure, listener: Listener) -> Comparison:
    """Measure the base, train and measure every arm under `out`, and return the comparison.

    The arm called `plain` defines the gain. Raises: LoopaiError when plain LoRA gains nothing.
    """
    base = measure_base(next(iter(configs.values())), measure, listener)
    arms = {name: [run_arm(name, config, out / name, measure, listener)] for name, config in configs.items()}
    return document(base, arms, measure)


def measure_base(config: RunConfig, measure: Measure, listener: Listener) -> Measurement:
    """What the base scores, from the cache where it is known. Raises: InputError when it is near chance everywhere."""
    base = measure_model(load_model(config.model, config.dtype), config, measure, listener, BASE, cache_folder())
    comparable(base.general.results)
    return base


def run_arm(name: str, config: RunConfig, out: Path, measure: Measure, listener: Listener) -> Arm:
    """Train one arm into `out` and measure it."""
    listener.notice(f"arm {name}")
    train(config, out, listener, resume=RunDirectory(out).identity.exists())
    return measured_arm(name, config, out, measure, listener)


def measured_arm(name: str, config: RunConfig, out: Path, measure: Measure, listener: Listener) -> Arm:
    """The arm whose run in `out` is complete."""
    loaded = trained_model(config, out)
    measured = measure_model(loaded, config, measure, listener, name, out)
    run = read_run(RunDirectory(out))
    assert run.summary is not None  # the run is complete
    return Arm(name, config, out, measured, run.summary.train_s, run.steps)


def rescaled_arm(arm: Arm, domain: str, measure: Measure, listener: Listener) -> Arm:
    """`arm` rescaled after training by the held-out rows of `domain`, and measured; kept in its run's folder."""
    name, loaded = f"{arm.name}{POSTHOC}", trained_model(arm.config, arm.folder)
    rows = [[message.content for message in record.messages] for record in read_source(domain, "domain")]
    by = json.dumps([rows, arm.config.forgetting.kept_floor])
    folder = arm.folder / f"posthoc-{hashlib.sha256(by.encode()).hexdigest()[:16]}"
    rescaling, tune_s = _rescaling(arm, domain, folder / "rescaling.json", loaded, listener)
    with rescaled(loaded.model, rescaling):
        measured = measure_model(loaded, arm.config, measure, listener, name, folder)
    return Arm(name, arm.config, arm.folder, measured, arm.train_s + tune_s, arm.curve, arm.name, rescaling)


def _rescaling(arm: Arm, domain: str, kept: Path, loaded: LoadedModel, listener: Listener) -> tuple[Rescaling, float]:
    """What the held-out rows choose and the seconds it took; read from `kept` where it was chosen before."""
    if kept.exists():
        stored = json.loads(kept.read_text(encoding="utf-8"))
        return Rescaling(stored["first"], stored["last"]), stored["tune_s"]
    listener.notice(f"arm {arm.name}, seed {arm.config.train.seed}: rescaling")
    started = time.perf_counter()
    chosen = tune(loaded, arm.config, domain, arm.config.forgetting.kept_floor, listener).chosen.rescaling
    tune_s = time.perf_counter() - started
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_whole(kept, json.dumps({**asdict(chosen), "tune_s": tune_s}))
    return chosen, tune_s


def trained_model(config: RunConfig, out: Path) -> LoadedModel:
    """The base with the adapter of the run in `out`."""
    loaded = load_model(config.model, config.dtype)
    load_adapter(loaded.model, RunDirectory(out).adapter, loaded.base_hash)
    return loaded


def document(base: Measurement, arms: Mapping[str, Sequence[Arm]], measure: Measure) -> Comparison:
    """The comparison of the arms, each with its seeds, with the base; the arm `plain`, else the first, is the gain's 1.

    Raises: LoopaiError when that arm gains nothing.
    """
    first = next(iter(arms.values()))
    plain = arms.get(PLAIN, first)
    trained = {name: (seeds[0].config, seeds[0].folder) for name, seeds in arms.items() if not seeds[0].rescaled}
    costs = step_costs(trained, measure.domain)
    # A base has a gain of 0 by definition: there is nothing to show.
    results = {BASE: replace(_result([base], base, plain), gain=None)}
    for name, seeds in arms.items():
        step_s, peak_bytes = costs[seeds[0].rescaled or name]
        results[name] = replace(
            _result([arm.measured for arm in seeds], base, plain),
            train_s=_mean([arm.train_s for arm in seeds]),
            step_s=step_s,
            peak_bytes=peak_bytes,
            steps=len(seeds[0].curve),
            learning_rate=seeds[0].config.train.learning_rate,
            seeds=tuple(_seed(arm, base) for arm in seeds),
            curve=seeds[0].curve,
            settings=seeds[0].config.to_yaml(),
        )
        if not seeds[0].rescaled:
            _note_on_cards(seeds, results[name])
    config = first[0].config
    return Comparison(model=config.model, seed=config.train.seed, arms=results)


def _result(measured: Sequence[Measurement], base: Measurement, plain: Sequence[Arm]) -> ArmResult:
    """The figures of one arm, `measured` once a seed; examples are those of the first."""
    names = comparable(base.general.results)
    kept = retention_over_seeds(_counted(base, names), [_counted(one, names) for one in measured])
    references = [arm.measured.domain for arm in plain][: len(measured)]
    gain, gain_interval = gain_over_seeds(base.domain, [one.domain for one in measured][: len(references)], references)
    return ArmResult(
        retention=kept.mean,
        retention_min=kept.minimum,
        retention_interval=kept.interval,
        gain=gain,
        gain_interval=gain_interval,
        domain_score=-_mean([one.domain.nll_per_token for one in measured]),
        domain_perplexity=_mean([one.domain.perplexity for one in measured]),
        right_to_wrong=kept.right_to_wrong,
        wrong_to_right=kept.wrong_to_right,
        probes={name: TaskScore(**vars(probe)) for name, probe in kept.per_probe.items()},
        purity=_mean_known([one.general.purity for one in measured]),
        general_nll={name: _mean([one.general.nll[name] for one in measured]) for name in base.general.nll},
        examples=measured[0].examples,
    )


def _note_on_cards(seeds: Sequence[Arm], result: ArmResult) -> None:
    """Each seed's adapter says what its arm kept and gained over all of them."""
    asked = ", ".join(result.probes)
    measured_on = f"{asked}; the mean of {len(seeds)} seeds" if len(seeds) > 1 else asked
    for arm in seeds:
        note_retention(RunDirectory(arm.folder).adapter, retention_figures(measured_on, result))


def _seed(arm: Arm, base: Measurement) -> SeedResult:
    names = comparable(base.general.results)
    kept = retention_over_seeds(_counted(base, names), [_counted(arm.measured, names)], resamples=1)
    return SeedResult(
        seed=arm.config.train.seed,
        retention=kept.mean,
        retention_min=kept.minimum,
        domain_score=-arm.measured.domain.nll_per_token,
        train_s=arm.train_s,
        rescaling=RescalingFactors(**asdict(arm.rescaling)) if arm.rescaling else None,
    )


def _counted(measured: Measurement, names: Sequence[str]) -> list[ProbeResult]:
    return [result for result in measured.general.results if result.name in names]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _mean_known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return _mean(known) if known else None
