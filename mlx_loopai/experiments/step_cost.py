"""What guarding costs a step: time and memory on the same fixed rows, with it and without, interleaved."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import mlx.core as mx
import mlx.optimizers as optimizers
import numpy as np

from mlx_loopai.config import RunConfig
from mlx_loopai.data.sources import read_source
from mlx_loopai.data.tokens import ChatEncoder, TokenRow, encode_records
from mlx_loopai.guards.dense_importance import DenseImportance
from mlx_loopai.guards.importance import Importance
from mlx_loopai.guards.penalties import PENALTIES, read_importance
from mlx_loopai.models.load import load_model, load_tokenizer, resolve_model
from mlx_loopai.models.lora import apply_lora
from mlx_loopai.runs.directory import RunDirectory
from mlx_loopai.training.objective import Objective
from mlx_loopai.training.phases import batch_of
from mlx_loopai.training.step import StepSettings, TrainStep

# A median within 2 % where steps vary by a twentieth; fewer where a step takes seconds.
MOST_REPEATS, LEAST_REPEATS, ENOUGH_S = 25, 5, 20.0
Cost = tuple[float, int]


def step_costs(arms: Mapping[str, tuple[RunConfig, Path]], domain: str) -> dict[str, Cost]:
    """(median seconds, peak bytes) of a step of every arm (its configuration and run folder) on rows of `domain`.

    Arms whose steps differ only in their rows share the figures of a plain step, measured beside the last guarded one.
    """
    config, _ = next(iter(arms.values()))
    encoder = ChatEncoder(load_tokenizer(resolve_model(config.model)), config.system_prompt)
    rows, _ = encode_records(encoder, read_source(domain, "domain"), config.train.max_tokens)
    rows = rows[: config.train.rows_per_step]
    costs: dict[str, Cost] = {}
    plain: Cost | None = None
    for name, (arm, folder) in arms.items():
        path = RunDirectory(folder).importance
        importance = read_importance(path) if path.exists() else None
        if importance is not None or arm.penalty.kind == "kl":
            both = measure_step(arm, rows, importance)
            costs[name], plain = both[True], both[False]
    if plain is None:
        plain = measure_step(config, rows, None)[False]
    return {name: costs.get(name, plain) for name in arms}


def measure_step(
    config: RunConfig, rows: Sequence[TokenRow], importance: Importance | DenseImportance | None
) -> dict[bool, Cost]:
    """(median seconds, peak bytes) of an optimizer step on the same fixed rows, guarded (True) and not.

    The two are interleaved, so that the machine's drift falls on both; each runs once before it counts. A configuration
    without a guard is measured once (False).
    """
    loaded = load_model(config.model, config.dtype)
    apply_lora(loaded.model, config.lora, config.train.seed)
    optimizer = optimizers.AdamW(config.train.learning_rate)
    step = TrainStep(loaded.model, optimizer, StepSettings(clip=config.train.clip, path=config.train.path))
    penalty = PENALTIES[config.penalty.kind](importance) if importance else None
    divergence = config.penalty.strength if config.penalty.kind == "kl" else 0.0
    plain = [batch_of(rows, [max(len(row.ids) for row in rows)])]
    batches = {False: plain, True: Objective(training_divergence=divergence).weigh(plain)}
    forms = (False, True) if penalty or divergence else (False,)
    seconds: dict[bool, list[float]] = {form: [] for form in forms}
    peaks = dict.fromkeys(forms, 0)
    began = time.perf_counter()
    for repeat in range(MOST_REPEATS + 1):
        if repeat > LEAST_REPEATS and time.perf_counter() - began > ENOUGH_S:
            break
        for guarded in forms:
            mx.reset_peak_memory()
            started = time.perf_counter()
            step(batches[guarded], config.train.learning_rate, penalty if guarded else None, 1.0)
            seconds[guarded].append(time.perf_counter() - started)
            peaks[guarded] = max(peaks[guarded], mx.get_peak_memory())
    return {guarded: (float(np.median(values[1:])), peaks[guarded]) for guarded, values in seconds.items()}
