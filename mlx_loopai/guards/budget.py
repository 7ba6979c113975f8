"""Keeps a run inside its forgetting budget: the guards weigh more the further the model has moved.

A strength that suits one model does nothing to another. The budget is in nats a token, the same for all models, and the
controller finds the strength while the run trains.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# The weight may become this many times larger or smaller than what the configuration says.
WIDEST = 1000.0
# Aim below the budget: the last readings of a run fall on both sides of the aim.
AIM = 0.85
# How far above it a run may be while all of its learning rate is still to fall.
EARLY = 1.0
# The weight's logarithm follows that of reading over aim: `INTEGRAL` of it in `INTEGRAL_STEPS` steps, `PROPORTIONAL` of
# its change since the reading before. A model answers a new weight within about ten steps; a controller that is faster
# than that swings.
INTEGRAL, PROPORTIONAL = 0.8, 0.6
INTEGRAL_STEPS = 10
# A reading near 0 means that the budget is unspent; by how many orders of magnitude does not matter.
LOWEST_ERROR, HIGHEST_ERROR = -1.5, 3.0


@dataclass(frozen=True)
class GuardWeight:
    """What the guards weigh: `factor` times their configured strength.

    error: of the last reading, None at first; step: the optimizer step after which it was taken.
    """

    log_factor: float = 0.0
    error: float | None = None
    step: int = 0

    @property
    def factor(self) -> float:
        return math.exp(self.log_factor)

    def after(self, divergence: float, budget: float, step: int, still_to_fall: float = 0.0) -> GuardWeight:
        """The weight after a reading at `step`: `divergence` nats a token of KL from the base, `budget` above 0.

        still_to_fall: share of the phase's peak learning rate that the schedule will yet take away, in [0, 1]. At the
        same weight a run comes back towards its base as the rate falls, so the budget is for where that ends: to hold
        a run inside it from the start took ten times the weight and a fifth of what it learnt (docs/experiments.md).

        A PI controller in its velocity form on the logarithm of the weight, with the error log(divergence / aim) held
        between two bounds. Without a state of its own it does not wind up at the bounds of the weight.
        """
        aim = AIM * budget * (1 + EARLY * still_to_fall)
        smallest = aim * math.exp(LOWEST_ERROR)
        error = min(HIGHEST_ERROR, math.log(max(divergence, smallest) / aim))
        change = error - (error if self.error is None else self.error)
        bound = math.log(WIDEST)
        integral = INTEGRAL * (step - self.step) / INTEGRAL_STEPS
        moved = self.log_factor + integral * error + PROPORTIONAL * change
        return GuardWeight(min(bound, max(-bound, moved)), error, step)
