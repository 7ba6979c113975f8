"""The loss of grpo, and its derivatives: answers to one prompt are compared with one another.

Source: GRPO, arXiv 2402.03300 (eq. 3), with the mean over all tokens of a step in place of a mean of means over
answers (DAPO, arXiv 2503.14476, eq. 8; TRL's `loss_type: dapo`), so that a token of a long answer weighs as much as one
of a short answer. How it differs from the paper:

- There is no KL to a reference in the loss, as in DAPO and by default in TRL: a run's guards hold its distance from the
  base on general answers, and the prompts' own answers are what it should change.
- Groups of equal rewards are left out of the mean. Others are not drawn in their place.
- The clip is symmetric. With one update on the answers of a step it never acts, since the ratio is 1.
- Log-probabilities are taken at a temperature of 1, whatever the answers were drawn at; TRL divides by it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlx_loopai.training.preference import Floats

# Added to the deviation of a group, as in TRL.
_DEVIATION_FLOOR = 1e-4
# Sums of the same shares in another order differ by less.
_SPREAD = 1e-6


def advantages(rewards: Floats) -> Floats:
    """(r - mean) / (deviation + 1e-4) in each group. rewards: [P, G]; the result [P, G] is 0 for groups of equal ones.

    The deviation is that of the group itself (divided by G); TRL divides by G - 1.
    """
    apart = rewards - rewards.mean(axis=1, keepdims=True)
    return np.where(has_spread(rewards)[:, None], apart / (rewards.std(axis=1, keepdims=True) + _DEVIATION_FLOOR), 0.0)


def has_spread(rewards: Floats) -> np.ndarray:
    """[P]: whether the rewards [P, G] of a group differ, so that something can be learnt of it."""
    return np.ptp(rewards, axis=1) > _SPREAD


@dataclass(frozen=True, eq=False)
class ClippedLosses:
    """Of N tokens: `losses` [N], and their derivatives by the tokens' log-probabilities [N]."""

    losses: Floats
    by_token: Floats


def clipped_losses(gained: Floats, advantage: Floats, ratio_clip: float) -> ClippedLosses:
    """-min(r A, clip(r, 1 - ratio_clip, 1 + ratio_clip) A) of every token, with r = exp(gained).

    gained [N]: nats by which a token became likelier since it was drawn; advantage [N]: that of its answer.

    Source: PPO, arXiv 1707.06347 (eq. 7).
    """
    ratio = np.exp(gained)
    free, held = ratio * advantage, np.clip(ratio, 1 - ratio_clip, 1 + ratio_clip) * advantage
    # Beyond the clip, on the side to which the token is pushed, nothing pulls.
    return ClippedLosses(-np.minimum(free, held), np.where(free <= held, -free, 0.0))
