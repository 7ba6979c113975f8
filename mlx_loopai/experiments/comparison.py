"""Trains the arms of a comparison and measures them all in the same way, on the same base and domain rows."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mlx_loopai.config import RunConfig
from mlx_loopai.data.sources import DOMAIN
from mlx_loopai.data.tokens import ChatEncoder
from mlx_loopai.evaluation.gain import gain_over_seeds
from mlx_loopai.evaluation.retention import counted, retention_over_seeds
from mlx_loopai.experiments.evaluate import retained
from mlx_loopai.experiments.measurement import Measure, Measurement, measure_model
from mlx_loopai.experiments.noise_floor import left_by_noise, noise_floor
from mlx_loopai.experiments.rescaling import Rescaling, rescaled
from mlx_loopai.experiments.step_cost import step_costs
from mlx_loopai.experiments.tune import tune
from mlx_loopai.files import cache_folder, digest_name, write_whole
from mlx_loopai.language import tr
from mlx_loopai.models.adapters import load_adapter, note_retention
from mlx_loopai.models.load import LoadedModel
from mlx_loopai.models.whole_model import load_whole_update
from mlx_loopai.runs.context import RunContext
from mlx_loopai.runs.directory import RunDirectory
from mlx_loopai.runs.documents.comparison import BASE, PLAIN, ArmResult, Comparison, RescalingFactors, SeedResult
from mlx_loopai.runs.documents.events import Step
from mlx_loopai.runs.documents.figures import TaskScore
from mlx_loopai.runs.documents.run import read_run
from mlx_loopai.runs.listener import Listener
from mlx_loopai.training.card import retention_figures
from mlx_loopai.training.run import train_in

POSTHOC = "+posthoc"


@dataclass(frozen=True)
class Arm:
    """One trained arm at one seed. curve: the run's steps; train_s: seconds.

    rescaled: name of the arm that was rescaled by `rescaling` after training to get this one, whose `context` it has.
    """

    name: str
    context: RunContext
    measured: Measurement
    train_s: float
    curve: tuple[Step, ...]
    rescaled: str | None = None
    rescaling: Rescaling | None = None


def compare(configs: dict[str, RunConfig], out: Path, measure: Measure, listener: Listener) -> Comparison:
    """Measure the base, train and measure every arm under `out`, and return the comparison.

    The arm called `plain` defines the gain. Raises: LoopaiError when plain LoRA gains nothing.
    """
    name, config = next(iter(configs.items()))
    first = RunContext.open(config, RunDirectory(out / name), listener)
    base = measure_base(first, measure)
    contexts = {name: first.for_run(config, RunDirectory(out / name)) for name, config in configs.items()}
    return document(base, {name: [run_arm(name, context, measure)] for name, context in contexts.items()}, measure)


def measure_base(context: RunContext, measure: Measure) -> Measurement:
    """What the base scores, and its noise floor, from the cache where they are known.

    Raises: InputError when it is near chance everywhere.
    """
    config, listener = context.config, context.listener
    loaded = context.base.load(config.dtype)
    base = measure_model(loaded, config, measure, listener, BASE, cache_folder())
    counted(base.general.tasks)
    encoder = ChatEncoder(loaded.tokenizer, config.system_prompt)
    return replace(base, noise_floor=noise_floor(loaded, encoder, measure.tasks, base.general, listener))


def run_arm(name: str, context: RunContext, measure: Measure) -> Arm:
    """Train one arm into the context's folder and measure it."""
    context.listener.notice(tr("arm {name}", name=name))
    train_in(context, resume=context.directory.identity.exists())
    return measured_arm(name, context, measure)


def measured_arm(name: str, context: RunContext, measure: Measure) -> Arm:
    """The arm whose run in the context's folder is complete."""
    loaded, folder = trained_model(context), context.directory.path
    measured = measure_model(loaded, context.config, measure, context.listener, name, folder)
    run = read_run(context.directory)
    assert run.summary is not None  # the run is complete
    return Arm(name=name, context=context, measured=measured, train_s=run.summary.train_s, curve=run.steps)


def rescaled_arm(arm: Arm, domain: str, measure: Measure) -> Arm:
    """`arm` rescaled after training, by a scale chosen on the held-out rows of `domain`, and measured.

    The results are kept in the run's folder.
    """
    name, context, loaded = f"{arm.name}{POSTHOC}", arm.context, trained_model(arm.context)
    records = context.reader.records(domain, DOMAIN)
    by = [[[message.content for message in record.messages] for record in records]]
    kept_floor = context.config.forgetting.kept_floor
    folder = context.directory.path / f"posthoc-{digest_name([*by, kept_floor], 16)}"
    rescaling, tune_s = _rescaling(arm, domain, folder / "rescaling.json")
    with rescaled(loaded.model, rescaling):
        measured = measure_model(loaded, context.config, measure, context.listener, name, folder)
    return replace(
        arm, name=name, measured=measured, train_s=arm.train_s + tune_s, rescaled=arm.name, rescaling=rescaling
    )


def _rescaling(arm: Arm, domain: str, kept: Path) -> tuple[Rescaling, float]:
    """(the rescaling chosen on the held-out rows, the seconds that took); read from `kept` if chosen before."""
    if kept.exists():
        stored = json.loads(kept.read_text(encoding="utf-8"))
        return Rescaling(stored["first"], stored["last"]), stored["tune_s"]
    config = arm.context.config
    arm.context.listener.notice(tr("arm {name}, seed {seed}: rescaling", name=arm.name, seed=config.train.seed))
    started = time.perf_counter()
    chosen = tune(arm.context, domain, config.forgetting.kept_floor).chosen.rescaling
    tune_s = time.perf_counter() - started
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_whole(kept, json.dumps({**asdict(chosen), "tune_s": tune_s}))
    return chosen, tune_s


def trained_model(context: RunContext) -> LoadedModel:
    """The base with the update of the run in the context's folder: its adapter, or its whole update."""
    loaded = context.base.load(context.config.dtype)
    if context.config.trains_weights:
        load_whole_update(loaded.model, context.directory.model, context.config.lora)
    else:
        load_adapter(loaded.model, context.directory.adapter, loaded.base_hash)
    return loaded


def document(base: Measurement, arms: Mapping[str, Sequence[Arm]], measure: Measure) -> Comparison:
    """The comparison of the base and all arms, each with its seeds. A gain of 1 is that of `plain`, or the first arm.

    Raises: LoopaiError when that arm gains nothing.
    """
    first = next(iter(arms.values()))
    plain = arms.get(PLAIN, first)
    trained = {name: seeds[0].context for name, seeds in arms.items() if not seeds[0].rescaled}
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
            learning_rate=seeds[0].context.config.train.learning_rate,
            seeds=tuple(_seed(arm, base) for arm in seeds),
            curve=seeds[0].curve,
            settings=seeds[0].context.config.to_yaml(),
        )
        if not seeds[0].rescaled:
            _note_on_cards(seeds, results[name])
    config = first[0].context.config
    return Comparison(model=config.model, seed=config.train.seed, arms=results)


def _result(measured: Sequence[Measurement], base: Measurement, plain: Sequence[Arm]) -> ArmResult:
    """The figures of one arm, with one entry of `measured` per seed; examples are those of the first."""
    kept = retention_over_seeds(base.general.tasks, [one.general.tasks for one in measured])
    references = [arm.measured.domain for arm in plain][: len(measured)]
    gain, gain_interval = gain_over_seeds(base.domain, [one.domain for one in measured][: len(references)], references)
    return ArmResult(
        **retained(kept),
        **left_by_noise(base.noise_floor),
        gain=gain,
        gain_interval=gain_interval,
        domain_score=-_mean([one.domain.nll_per_token for one in measured]),
        domain_perplexity=_mean([one.domain.perplexity for one in measured]),
        probes={name: TaskScore(**vars(task)) for name, task in kept.per_task.items()},
        purity=_mean_known([one.general.purity for one in measured]),
        general_nll={name: _mean([one.general.nll[name] for one in measured]) for name in base.general.nll},
        examples=measured[0].examples,
    )


def _note_on_cards(seeds: Sequence[Arm], result: ArmResult) -> None:
    """Write the arm's retention and gain, over all seeds, on the model card of each seed's result."""
    asked = ", ".join(result.probes)
    measured_on = f"{asked}; the mean of {len(seeds)} seeds" if len(seeds) > 1 else asked
    for arm in seeds:
        if folder := arm.context.directory.result:
            note_retention(folder, retention_figures(measured_on, result))


def _seed(arm: Arm, base: Measurement) -> SeedResult:
    kept = retention_over_seeds(base.general.tasks, [arm.measured.general.tasks], resamples=1)
    return SeedResult(
        seed=arm.context.config.train.seed,
        retention=kept.mean,
        retention_min=kept.minimum,
        domain_score=-arm.measured.domain.nll_per_token,
        train_s=arm.train_s,
        rescaling=RescalingFactors(**asdict(arm.rescaling)) if arm.rescaling else None,
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _mean_known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return _mean(known) if known else None
