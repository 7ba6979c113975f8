"""Arms side by side: the same base and domain rows, trained in different ways, measured the same way."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.optimizers as optimizers
import numpy as np

from mlx_loopai.config import RunConfig
from mlx_loopai.data.records import Message
from mlx_loopai.data.samples import corpus
from mlx_loopai.data.tokens import ChatEncoder, TokenRow, encode_records
from mlx_loopai.evaluation.forgetting import gain, gain_interval
from mlx_loopai.evaluation.measure import Measurement as GeneralMeasurement
from mlx_loopai.evaluation.measure import compare as retained
from mlx_loopai.evaluation.measure import measure as measure_general
from mlx_loopai.evaluation.perplexity import RowLosses, nll
from mlx_loopai.evaluation.probes import Probe
from mlx_loopai.generation.engine import SamplingOptions, generate_batch
from mlx_loopai.models.adapters import load_adapter
from mlx_loopai.models.load import LoadedModel, load_model, load_tokenizer, resolve_model
from mlx_loopai.models.lora import apply_lora
from mlx_loopai.models.loss import DEFAULT_CHUNK_ROWS
from mlx_loopai.training.dense_importance import DenseImportance
from mlx_loopai.training.events import RunDirectory
from mlx_loopai.training.importance import Importance
from mlx_loopai.training.phases import batch_of
from mlx_loopai.training.prepare import Listener
from mlx_loopai.training.regularizers import PENALTIES, read_importance
from mlx_loopai.training.replay import read_source
from mlx_loopai.training.run import train
from mlx_loopai.training.step import TrainStep

BASE = "base"
PLAIN = "plain"
EXAMPLE_TOKENS = 160
STEP_REPEATS = 9


@dataclass(frozen=True)
class Measurement:
    """What a model (base or tuned) scores: general ability, domain losses, answers to the example prompts."""

    general: GeneralMeasurement
    domain: RowLosses
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Arm:
    """One trained arm. `curve`: the run's step events; times in seconds, memory in bytes."""

    name: str
    config: RunConfig
    measured: Measurement
    train_s: float
    curve: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Measure:
    """How every model of a comparison is measured."""

    probes: Sequence[Probe]
    domain: str
    prompts: Sequence[str]


def compare(configs: dict[str, RunConfig], out: Path, measure: Measure, listener: Listener) -> dict[str, Any]:
    """Measure the base, train and measure every arm under `out`, and return the comparison as a plain document.

    The arm called `plain` defines the gain. Raises: LoopaiError when plain LoRA gains nothing.
    """
    any_config = next(iter(configs.values()))
    base = measure_model(load_model(any_config.model, any_config.dtype), any_config, measure, listener, label=BASE)
    arms = [run_arm(name, config, out / name, measure, listener) for name, config in configs.items()]
    plain = next((arm.measured for arm in arms if arm.name == PLAIN), arms[0].measured)
    steps = _step_costs(configs, out, measure)
    document = {BASE: _entry(base, base, plain, measure) | dict.fromkeys(("train_s", "step_s", "peak_bytes", "gain"))}
    for arm in arms:
        entry = _entry(arm.measured, base, plain, measure)
        step_s, peak_bytes = steps[arm.name]
        entry |= {"train_s": arm.train_s, "step_s": step_s, "peak_bytes": peak_bytes, "curve": arm.curve}
        entry |= {"learning_rate": arm.config.train.learning_rate, "settings": arm.config.to_yaml()}
        document[arm.name] = entry
    return {"model": any_config.model, "seed": any_config.train.seed, "arms": document}


def run_arm(name: str, config: RunConfig, out: Path, measure: Measure, listener: Listener) -> Arm:
    """Train one arm into `out` and measure it; an arm whose run is complete is only measured again."""
    run = RunDirectory(out)
    listener.notice(f"arm {name}")
    train(config, out, listener, resume=run.identity.exists())
    loaded = load_model(config.model, config.dtype)
    load_adapter(loaded.model, run.adapter, loaded.base_hash)
    measured = measure_model(loaded, config, measure, listener, label=name)
    events = run.read_events()
    # The first one: a run that was complete before was not trained again.
    train_s = next(event["train_s"] for event in events if event["event"] == "done")
    return Arm(name, config, measured, train_s, tuple(event for event in events if event["event"] == "step"))


def measure_model(
    loaded: LoadedModel, config: RunConfig, measure: Measure, listener: Listener, label: str
) -> Measurement:
    """General ability, domain losses and example answers of one model, greedy."""
    encoder = ChatEncoder(loaded.tokenizer, config.system_prompt)
    listener.stage(f"probes of {label}", sum(len(probe.items) for probe in measure.probes))
    general = measure_general(loaded, encoder, measure.probes, corpus.held_out_texts(), on_progress=listener.advance)
    rows, _ = encode_records(encoder, read_source(measure.domain, "domain"), config.train.max_tokens)
    prompts = [encoder.prompt_ids([Message("user", prompt)]) for prompt in measure.prompts]
    sampling = SamplingOptions(temperature=0.0, max_tokens=EXAMPLE_TOKENS)
    answers = tuple(answer.text for answer in generate_batch(loaded, prompts, sampling))
    return Measurement(general, nll(loaded.model, rows), answers)


def measure_step(
    config: RunConfig, rows: Sequence[TokenRow], importance: Importance | DenseImportance | None
) -> dict[bool, tuple[float, int]]:
    """(median seconds, peak bytes) of an optimizer step on the same fixed rows, with the penalty (True) and without.

    The two are interleaved, so that the machine's drift falls on both; each runs once before it counts.
    """
    loaded = load_model(config.model, config.dtype)
    apply_lora(loaded.model, config.lora, config.train.seed)
    optimizer = optimizers.AdamW(config.train.learning_rate)
    optimizer.init(loaded.model.trainable_parameters())
    step = TrainStep(
        loaded.model, optimizer, clip=config.train.clip, chunk_rows=DEFAULT_CHUNK_ROWS, checkpointing=False
    )
    penalty = PENALTIES[config.penalty.kind](importance) if importance else None
    batches = [batch_of(rows, [max(len(row.ids) for row in rows)])]
    seconds: dict[bool, list[float]] = {False: [], True: []}
    peaks = {False: 0, True: 0}
    for _ in range(STEP_REPEATS + 1):
        for guarded in (False, True):
            mx.reset_peak_memory()
            started = time.perf_counter()
            step(batches, config.train.learning_rate, penalty if guarded else None, 1.0)
            seconds[guarded].append(time.perf_counter() - started)
            peaks[guarded] = max(peaks[guarded], mx.get_peak_memory())
    return {guarded: (float(np.median(values[1:])), peaks[guarded]) for guarded, values in seconds.items()}


def _step_costs(configs: dict[str, RunConfig], out: Path, measure: Measure) -> dict[str, tuple[float, int]]:
    """Every arm's step time and peak memory on the same rows: the arms with a penalty against the one without."""
    costs, interleaved = {}, {}
    for name, config in configs.items():
        path = RunDirectory(out / name).importance
        importance = read_importance(path) if path.exists() else None
        encoder = ChatEncoder(load_tokenizer(resolve_model(config.model)), config.system_prompt)
        rows, _ = encode_records(encoder, read_source(measure.domain, "domain"), config.train.max_tokens)
        both = measure_step(config, rows[: config.train.rows_per_step], importance)
        costs[name] = both[importance is not None]
        if importance is not None:
            interleaved[PLAIN] = both[False]
    # For plain, the penalty-free half of the same interleaved run is the fair partner.
    return costs | interleaved


def _entry(measured: Measurement, base: Measurement, plain: Measurement, measure: Measure) -> dict[str, Any]:
    kept = retained(base.general, measured.general)
    scores = (-one.domain.nll_per_token for one in (base, measured, plain))
    return {
        "retention": kept.mean,
        "retention_min": kept.minimum,
        "retention_interval": kept.interval,
        "gain": gain(*scores),
        "gain_interval": gain_interval(base.domain, measured.domain, plain.domain),
        "domain_score": -measured.domain.nll_per_token,
        "domain_perplexity": measured.domain.perplexity,
        "right_to_wrong": kept.right_to_wrong,
        "wrong_to_right": kept.wrong_to_right,
        "probes": {name: asdict(probe) for name, probe in kept.per_probe.items()},
        "purity": measured.general.purity,
        "held_out_perplexity": measured.general.perplexity,
        "examples": [
            {"prompt": prompt, "answer": answer}
            for prompt, answer in zip(measure.prompts, measured.answers, strict=True)
        ],
    }
