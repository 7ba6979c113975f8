"""Scales a finished update back until the model is inside its forgetting budget."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from mlx_loopai.models.updated_linear import scale_update

MOST_READINGS = 6
# KL to the base grows with the square of a small update. For a large one the power is estimated from readings, and held
# between these bounds.
SMALL_UPDATE_POWER, LOWEST_POWER, HIGHEST_POWER = 2.0, 0.5, 6.0
# A distance of 0 has no logarithm.
SMALLEST = 1e-12
# A result this close to the budget is good enough, from below.
NEAR = 0.95


@dataclass(frozen=True)
class ScaledBack:
    """`scale` of the update, in (0, 1]: 1 is all of it; `divergence`: what the model spends with it, nats a token."""

    scale: float
    divergence: float


def scale_back(model: nn.Module, divergence: float, budget: float, read: Callable[[], float]) -> ScaledBack:
    """Shrink the model's update until `read`, what it spends in nats a token, is at most `budget`.

    divergence: what `read` gives for the whole update. The largest scale that was found inside the budget stays in
    `model`; where none of `MOST_READINGS` was inside, the last one.

    Source: interpolating between a base and its fine-tuned weights, arXiv 2109.01903. Here the scale is solved for, by
    the secant method on logarithms.
    """
    now, inside, power = ScaledBack(1.0, divergence), None, SMALL_UPDATE_POWER
    aim = (1 + NEAR) / 2 * budget
    for _ in range(MOST_READINGS):
        if NEAR * budget <= now.divergence <= budget or (now.scale == 1 and now.divergence <= budget):
            return now
        before = now
        now = _scaled(model, before, min(1.0, before.scale * (aim / before.divergence) ** (1 / power)), read)
        if now.divergence <= budget and (inside is None or now.scale > inside.scale):
            inside = now
        if now.scale != before.scale:
            steepness = math.log(now.divergence / before.divergence) / math.log(now.scale / before.scale)
            power = min(HIGHEST_POWER, max(LOWEST_POWER, steepness))
    if inside is not None and now.scale != inside.scale:
        return _scaled(model, now, inside.scale, lambda: inside.divergence)
    return now


def _scaled(model: nn.Module, now: ScaledBack, scale: float, read: Callable[[], float]) -> ScaledBack:
    """Change the update in `model` from `now.scale` to `scale` of the whole one, and read the divergence there."""
    scale_update(model, lambda _: scale / now.scale)
    mx.eval(model.trainable_parameters())
    return ScaledBack(scale, max(read(), SMALLEST))
