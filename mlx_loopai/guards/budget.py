"""Keeps a run inside its forgetting budget: the guards weigh more the further the model has moved.

A strength that suits one model does nothing to another. The budget is in nats a token, the same for all models, and the
controller finds the strength while the run trains. It sees every kind of general answers, not only their mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
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

# Nats that one token counts at most. At 1 a token of which the base was sure has a third of its likelihood left: it is
# as good as lost, and by how much more says nothing. Without a bound a few lost tokens make up three quarters of a
# reading on nano, which swings with them (docs/experiments.md).
MOST_OF_A_TOKEN = 1.0
# How many times the budget one kind of answers may be from the base, while all of them together keep to it. In two real
# runs that kept everything the furthest kind was at 1.3 and 1.8 times the mean, in one that lost a kind at 1.9.
ALLOWANCE = 1.5
# One answer's KL says little about its kind's, so a kind's KL is averaged with this many answers that are as far from
# the base as all answers are.
PRIOR_ROWS = 2.0


# Readings in a row outside of what is allowed that end a run which stops itself: the guards have had one to answer.
READINGS_OUTSIDE = 2


def allowed(budget: float, still_to_fall: float) -> float:
    """Nats a token that a run may be away from its base at this moment; still_to_fall as in `GuardWeight.after`."""
    return budget * (1 + EARLY * still_to_fall)


@dataclass(frozen=True)
class KindReading:
    """How far the answers of one kind are from the base's: `nats` of KL in all, over `tokens` tokens in `rows` rows."""

    nats: float
    tokens: int
    rows: int

    @property
    def divergence(self) -> float:
        """Nats a token, at least 0: rounding can put equal models a hair below."""
        return max(0.0, self.nats / self.tokens)


@dataclass(frozen=True)
class Distance:
    """How far a model is from its base, in nats a token of KL.

    divergence: over all answers. spent: what counts against the budget. furthest: the kind that is furthest away as far
    as its rows can tell; furthest_divergence: over its answers.
    """

    divergence: float
    spent: float
    furthest: str
    furthest_divergence: float


def distance(kinds: Mapping[str, KindReading]) -> Distance:
    """The distance of a model whose answers of each kind read so; there is at least one kind, and none is empty.

    A budget over all answers does not see one kind that is lost, so the larger one counts of their mean and the worst
    kind's KL / `ALLOWANCE`. A kind of n rows has n / (n + `PRIOR_ROWS`) of its own KL in that comparison, the rest is
    the mean: one odd answer does not steer a run.
    """
    mean = max(0.0, sum(one.nats for one in kinds.values()) / sum(one.tokens for one in kinds.values()))

    def judged(one: KindReading) -> float:
        return mean + one.rows / (one.rows + PRIOR_ROWS) * (one.divergence - mean)

    furthest = max(sorted(kinds), key=lambda name: judged(kinds[name]))
    spent = max(mean, judged(kinds[furthest]) / ALLOWANCE)
    return Distance(mean, spent, furthest, kinds[furthest].divergence)


@dataclass(frozen=True)
class GuardWeight:
    """What the guards weigh: `factor` times their configured strength.

    error: of the last reading, at first that of a model that has not moved, as a new adapter is; so the first reading
    already tells how fast it moves. step: the optimizer step after which it was taken.
    """

    log_factor: float = 0.0
    error: float = LOWEST_ERROR
    step: int = 0

    @property
    def factor(self) -> float:
        return math.exp(self.log_factor)

    def after(self, spent: float, budget: float, step: int, still_to_fall: float = 0.0) -> GuardWeight:
        """The weight after a reading at `step`: `spent` nats a token of a `budget` above 0, as in `Distance`.

        still_to_fall: share of the phase's peak learning rate that the schedule will yet take away, in [0, 1]. At the
        same weight a run comes back towards its base as the rate falls, so the budget is for where that ends: to hold
        a run inside it from the start took ten times the weight and a fifth of what it learnt (docs/experiments.md).

        A PI controller in its velocity form on the logarithm of the weight, with the error log(spent / aim) held
        between two bounds. Without a state of its own it does not wind up at the bounds of the weight.
        """
        aim = AIM * allowed(budget, still_to_fall)
        smallest = aim * math.exp(LOWEST_ERROR)
        error = min(HIGHEST_ERROR, math.log(max(spent, smallest) / aim))
        bound = math.log(WIDEST)
        integral = INTEGRAL * (step - self.step) / INTEGRAL_STEPS
        moved = self.log_factor + integral * error + PROPORTIONAL * (error - self.error)
        return GuardWeight(min(bound, max(-bound, moved)), error, step)
