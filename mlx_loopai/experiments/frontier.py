"""Gain against retention of one finished run: its update at several scales, each evaluated on a suite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlx_loopai.evaluation.perplexity import nll
from mlx_loopai.evaluation.retention import retention
from mlx_loopai.evaluation.suites import default_suite, read_suite
from mlx_loopai.experiments.noise_floor import left_by_noise, noise_floor
from mlx_loopai.experiments.rescaling import Rescaling, rescaled
from mlx_loopai.experiments.suite_answers import measure_suite, well_known
from mlx_loopai.experiments.tune import unrehearsed_rows
from mlx_loopai.files import cache_folder
from mlx_loopai.models.lora import adapter_disabled
from mlx_loopai.runs.context import RunContext
from mlx_loopai.training.monitor import Monitor


@dataclass(frozen=True, kw_only=True)
class FrontierPoint:
    """The model with `scale` of the update.

    divergence: KL from the base on answers that were not rehearsed; gain: improvement on held-out rows; both in nats
    per token. Retention is over the suite (docs/measuring.md).
    """

    scale: float
    divergence: float
    gain: float
    retention: float
    retention_min: float
    retention_interval: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Frontier:
    """noise_floor, noise_floor_min: `retention` and `retention_min` of the base rounded to 8 bits; None for a base with
    fewer bits."""

    points: tuple[FrontierPoint, ...]
    noise_floor: float | None = None
    noise_floor_min: float | None = None


@dataclass(frozen=True, kw_only=True)
class Asked:
    """How the model is measured. held_out: a file of domain rows that were not trained on; "": those that the run held
    out. suite: a name or a file; "": the one that suits the model. limit: questions of each kind; None: all.
    """

    held_out: str = ""
    suite: str = ""
    limit: int | None = None


def frontier(context: RunContext, scales: Sequence[float], asked: Asked) -> Frontier:
    """A point for each of `scales` of the context's model, which has the adapter of its run on.

    KL grows with about the square of the scale, and gain less than in proportion. So a smaller scale acts like a
    smaller forgetting budget, without training again. The model's weights are rounded afterwards.

    Raises: InputError for wrong rows or suites, or a base near chance on all of the suite.
    """
    loaded, listener = context.loaded, context.listener
    rows, encoder = context.held_out(asked.held_out), context.encoder
    tasks = read_suite(asked.suite or default_suite(loaded.path), asked.limit)
    monitor = Monitor(loaded.model, unrehearsed_rows(context), loaded.tokenizer)
    with adapter_disabled(loaded.model):
        before = nll(loaded.model, rows).nll_per_token
        base = measure_suite(loaded, encoder, tasks, listener, "base", cache_folder())
    tasks, base = well_known(tasks, base)
    points = []
    for scale in scales:
        with rescaled(loaded.model, Rescaling(scale, scale)):
            tuned = measure_suite(loaded, encoder, tasks, listener, f"{scale:g} of the update")
            kept = retention(base.tasks, tuned.tasks)
            points.append(
                FrontierPoint(
                    scale=scale,
                    divergence=monitor.read().divergence,
                    gain=before - nll(loaded.model, rows).nll_per_token,
                    retention=kept.mean,
                    retention_min=kept.minimum,
                    retention_interval=kept.interval,
                )
            )
    floor = noise_floor(loaded, encoder, tasks, base, listener)
    return Frontier(points=tuple(points), **left_by_noise(floor))
