"""The loss of tlpo at a position, and its derivatives, from the log-probabilities of the tokens that might follow.

Published (TLPO, arXiv 2604.26553, of which only the abstract and settings are known to us): one position a row, the
first at which an answer is confused; its 16 likeliest tokens as candidates; an advantage from p (s - mu), normalised by
a sum; a ratio clipped at 0.2; KL at 0.04. Our own choices, where its equations are not known: mu is the mean score
under the candidates' probabilities, which are normalised among them; the sum is over |p (s - mu)|, so that what pushes
up and what pushes down weigh 1/2 each; p and the ratio's denominator are those of the model before the run's first
step; the clip is that of PPO (arXiv 1707.06347, eq. 7) for each candidate; the KL is KL(base || adapted) over the whole
vocabulary at that position.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlx_loopai.training.preference import Floats


@dataclass(frozen=True, eq=False)
class Candidates:
    """Of P positions with at most K candidates, arrays [P, K]: `log_probability` and `reference`, that before the run's
    first step, nats; `score`, higher is better; `taken`: whether there is such a candidate.
    """

    log_probability: Floats
    reference: Floats
    score: Floats
    taken: npt.NDArray[np.bool_]

    @property
    def advantage(self) -> Floats:
        """[P, K]: above 0 for candidates that are better than the mean. Each position's sum to 0, and their absolute
        values to 1; they are all 0 where the scores are equal.
        """
        share = _shares(self.reference, self.taken)
        mean = (share * self.score).sum(axis=1, keepdims=True)
        raw = np.where(self.taken, share * (self.score - mean), 0.0)
        total = np.abs(raw).sum(axis=1, keepdims=True)
        return np.divide(raw, total, out=np.zeros_like(raw), where=total > 0)

    @property
    def odds_gained(self) -> Floats:
        """[P]: by how many nats the candidates that are better than the mean gained more than the others."""
        return self.better_gained - self._gained(self.advantage < 0)

    @property
    def better_gained(self) -> Floats:
        """[P]: by how many nats the candidates that are better than the mean became likelier together."""
        return self._gained(self.advantage > 0)

    def _gained(self, chosen: npt.NDArray[np.bool_]) -> Floats:
        return _log_sum(self.log_probability, chosen) - _log_sum(self.reference, chosen)


@dataclass(frozen=True, eq=False)
class PositionLosses:
    """Of P positions: `losses` [P], and their derivatives by the log-probability of each candidate [P, K]."""

    losses: Floats
    by_candidate: Floats


def position_losses(candidates: Candidates, ratio_clip: float) -> PositionLosses:
    """-sum over the candidates of min(r A, clip(r, 1 - ratio_clip, 1 + ratio_clip) A), with r = p / p_reference."""
    advantage = candidates.advantage
    ratio = np.where(candidates.taken, np.exp(candidates.log_probability - candidates.reference), 1.0)
    held = np.clip(ratio, 1 - ratio_clip, 1 + ratio_clip)
    gained = np.minimum(ratio * advantage, held * advantage)
    # Beyond the clip, on the side to which the candidate is pushed, nothing pulls.
    pulls = ratio * advantage <= held * advantage
    return PositionLosses(-gained.sum(axis=1), np.where(pulls, -ratio * advantage, 0.0))


def _shares(log_probability: Floats, taken: npt.NDArray[np.bool_]) -> Floats:
    """Probabilities among the candidates that are taken: softmax."""
    scores = np.where(taken, log_probability, -np.inf)
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def _log_sum(log_probability: Floats, chosen: npt.NDArray[np.bool_]) -> Floats:
    """Log-probability that one of the chosen candidates follows."""
    return np.logaddexp.reduce(np.where(chosen, log_probability, -np.inf), axis=1)
