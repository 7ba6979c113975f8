"""Measures what a guard adds to a step's time and memory: the same fixed rows with and without it, in turns."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx
import mlx.optimizers as optimizers
import numpy as np

from mlx_loopai.data.batches import batch_of
from mlx_loopai.data.sources import DOMAIN
from mlx_loopai.data.tokens import TokenRow
from mlx_loopai.guards.guard import Penalty, guard_of
from mlx_loopai.runs.context import RunContext
from mlx_loopai.training.objective import Objective
from mlx_loopai.training.start import put_update
from mlx_loopai.training.step import StepSettings, TrainStep

# Repeats that give a median within 2 % where steps vary by 5 %; fewer where a step takes seconds.
MOST_REPEATS, LEAST_REPEATS, ENOUGH_S = 25, 5, 20.0
Cost = tuple[float, int]


@dataclass(frozen=True)
class Held:
    """What a guard adds to a step: a penalty on the update, and the weight of KL to the base."""

    penalty: Penalty | None = None
    divergence: float = 0.0

    @staticmethod
    def of(context: RunContext) -> Held:
        """What the run in the context's folder, which is complete, was trained with."""
        config, guard = context.config, guard_of(context.config.penalty)
        state = guard.load(context.directory.importance) if config.measures_importance else None
        return Held(guard.penalty(state), config.penalty.strength * guard.token_divergence)


NOTHING = Held()


def step_costs(arms: Mapping[str, RunContext], domain: str) -> dict[str, Cost]:
    """(median seconds, peak bytes) of a step of every arm, whose run is complete, on rows of `domain`.

    Arms whose steps differ only in their rows share the figures of a plain step, measured with the last guarded one.
    """
    first = next(iter(arms.values()))
    rows = first.encoded(domain, DOMAIN)[: first.config.train.rows_per_step]
    costs: dict[str, Cost] = {}
    plain: Cost | None = None
    for name, context in arms.items():
        held = Held.of(context)
        if held != NOTHING:
            both = measure_step(context, rows, held)
            costs[name], plain = both[True], both[False]
    if plain is None:
        plain = measure_step(first, rows)[False]
    return {name: costs.get(name, plain) for name in arms}


def measure_step(context: RunContext, rows: Sequence[TokenRow], held: Held = NOTHING) -> dict[bool, Cost]:
    """(median seconds, peak bytes) of an optimizer step on the same fixed rows, guarded (True) and not.

    The two are interleaved, so that the machine's drift falls on both; each runs once before it counts. Where nothing
    is `held`, the step is measured once (False).
    """
    config = context.config
    loaded = context.base.load(config.dtype)
    put_update(context, config.lora)
    optimizer = optimizers.AdamW(config.train.learning_rate)
    settings = StepSettings(clip=config.train.clip, path=config.train.path, in_turn=config.trains_weights)
    step = TrainStep(loaded.model, optimizer, settings)
    plain = [batch_of(rows, [max(len(row.ids) for row in rows)])]
    batches = {False: plain, True: Objective(training_divergence=held.divergence).weigh(plain)}
    forms = (False,) if held == NOTHING else (False, True)
    seconds: dict[bool, list[float]] = {form: [] for form in forms}
    peaks = dict.fromkeys(forms, 0)
    began = time.perf_counter()
    for repeat in range(MOST_REPEATS + 1):
        if repeat > LEAST_REPEATS and time.perf_counter() - began > ENOUGH_S:
            break
        for guarded in forms:
            mx.reset_peak_memory()
            started = time.perf_counter()
            step(batches[guarded], config.train.learning_rate, held.penalty if guarded else None, 1.0)
            seconds[guarded].append(time.perf_counter() - started)
            peaks[guarded] = max(peaks[guarded], mx.get_peak_memory())
    return {guarded: (float(np.median(values[1:])), peaks[guarded]) for guarded, values in seconds.items()}
