"""Measures the memory of training steps, to fit `memory.predict` and to correct it on the user's own machine.

Weights, tokens and targets are random. Memory depends on their sizes alone, so a config.json is enough.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_loopai.config import LoraOptions, TrainOptions
from mlx_loopai.memory.guard_terms import NO_GUARD
from mlx_loopai.memory.plan import MemoryPlan
from mlx_loopai.memory.predict import QUANTIZED, predict, resting_bytes
from mlx_loopai.memory.sizes import FLOAT_BYTES, StepOptions
from mlx_loopai.models.full import apply_full
from mlx_loopai.models.load import DTYPES, build_model
from mlx_loopai.models.lora import apply_lora
from mlx_loopai.models.micro_batch import MicroBatch
from mlx_loopai.models.shape import ModelShape
from mlx_loopai.progress import Advance, ignore
from mlx_loopai.training.optimizer import build_optimizer
from mlx_loopai.training.step import StepSettings, TrainStep


@dataclass(frozen=True)
class MeasuredStep:
    """Bytes by MLX's own count. `at_rest_bytes`: between steps (weights, adapter, moments)."""

    at_rest_bytes: int
    peak_bytes: int
    step_s: float


def probe(config: Mapping[str, Any], planned: MemoryPlan, on_progress: Advance = ignore) -> float:
    """Ratio of measured to predicted bytes of a step, without what stays between steps; the larger of two ratios.

    One is the planned step of the model that `config` (a config.json) describes, the other has half as many tokens.
    """
    shape, backend = ModelShape.from_config(config), planned.machine.backend
    factors = []
    for done, options in enumerate(probed_options(planned), 1):
        measured = measure_step(config, options)
        predicted = predict(shape, replace(options, guard=NO_GUARD), backend)
        resting = resting_bytes(shape, options)
        factors.append((measured.peak_bytes - measured.at_rest_bytes) / (predicted.peak_bytes - resting))
        on_progress(done)
    return max(factors)


def probed_options(planned: MemoryPlan) -> list[StepOptions]:
    """The steps that `probe` measures: the planned micro-batch, and one of half as many rows, or of half the width."""
    whole = replace(planned.options, accumulates=False)
    rows = whole.micro_tokens // whole.width
    width = whole.width if rows > 1 else max(1, whole.width // 2)
    return [whole, replace(whole, width=width, micro_tokens=max(1, rows // 2) * width)]


def measure_case(config: Mapping[str, Any], options: StepOptions) -> dict[str, Any]:
    """The options of a step without a guard, and the bytes and seconds that it needed, as JSON values."""
    named = {name: value for name, value in asdict(options).items() if name != "guard"}
    return {"config": dict(config), "options": named, **asdict(measure_step(config, options))}


def measure_step(config: Mapping[str, Any], options: StepOptions) -> MeasuredStep:
    """Build the model that `config` describes, run one optimizer step, and say what it needed.

    A step has two micro-batches when `options` accumulate, else one. Arrays that the process held before do
    not count.
    """
    gc.collect()
    mx.clear_cache()
    before = mx.get_active_memory()
    model = random_model(config, options)
    lora = LoraOptions(
        rank=options.lora_rank, targets=options.lora_targets, layers=options.lora_layers, dora=options.dora
    )
    if options.whole:
        apply_full(model, lora)
    else:
        apply_lora(model, lora, seed=0)
    model.train()
    train = TrainOptions.model_validate({"optimizer": options.optimizer, "moments": options.moments})
    settings = StepSettings(
        clip=1.0, chunk_rows=options.chunk_rows, checkpointing=options.checkpointing, in_turn=options.whole
    )
    optimizer = build_optimizer(train)
    step = TrainStep(model, optimizer, settings)
    mx.eval(model.parameters(), optimizer.state)
    mx.clear_cache()
    at_rest = mx.get_active_memory() - before
    batches = [_batch(config["vocab_size"], options)] * (2 if options.accumulates else 1)
    mx.reset_peak_memory()
    started = time.perf_counter()
    step(batches, learning_rate=1e-4)
    return MeasuredStep(at_rest, mx.get_peak_memory() - before, time.perf_counter() - started)


def random_model(config: Mapping[str, Any], options: StepOptions) -> nn.Module:
    """A model of `config` with random weights in the precision that `options` name."""
    model = build_model(dict(config))
    model.set_dtype(DTYPES[options.compute])
    stored = ModelShape.from_config(config).quantization or QUANTIZED.get(options.base_precision)
    if stored is not None and options.base_precision not in FLOAT_BYTES:
        nn.quantize(model, group_size=stored.group_size, bits=stored.bits, mode=stored.mode)
    return model


def _batch(vocab_size: int, options: StepOptions) -> MicroBatch:
    """Rows of `width` inputs each, of which the first `supervised_share` of all positions are targets."""
    rows = max(1, options.micro_tokens // options.width)
    supervised = np.zeros((rows, options.width + 1), np.bool_)
    n_supervised = max(1, round(rows * options.width * options.supervised_share))
    supervised[:, 1:] = (np.arange(rows * options.width) < n_supervised).reshape(rows, options.width)
    ids = np.random.default_rng(0).integers(0, vocab_size, supervised.shape, np.int32)
    return MicroBatch(ids, supervised)
