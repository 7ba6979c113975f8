"""Preference losses (dpo, ipo, orpo, simpo, kto, apo) and their derivatives, from the answers' log-probabilities.

Notation: s is the log-probability of an answer of n tokens, s^ = s / n, and r = s - s_ref its gain over the base.
sigma is the logistic function, e the label smoothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlx_loopai.config import PreferenceOptions

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Answers:
    """N answers: `log_probability` [N] and the base's, `reference` [N], both summed nats; `tokens` [N], at least 1."""

    log_probability: Floats
    reference: Floats
    tokens: Floats

    @property
    def gain(self) -> Floats:
        """r: nats by which an answer became likelier than it is to the base."""
        return self.log_probability - self.reference

    @property
    def per_token(self) -> Floats:
        """s^: mean log-probability of a token."""
        return self.log_probability / self.tokens


@dataclass(frozen=True, eq=False)
class PairLosses:
    """Of P pairs: `losses` [P], and their derivatives by the log-probability of the chosen and rejected answer [P]."""

    losses: Floats
    by_chosen: Floats
    by_rejected: Floats


@dataclass(frozen=True, eq=False)
class AnswerLosses:
    """Of N answers: `losses` [N], and their derivatives by the answer's log-probability [N]."""

    losses: Floats
    by_answer: Floats


def pair_losses(options: PreferenceOptions, chosen: Answers, rejected: Answers, baseline: float = 0.0) -> PairLosses:
    """The loss of every pair under `options.objective`, the chosen answer's own loss times `sft_weight` included.

    For kto and apo the loss of a pair is the sum of its answers' (`answer_losses`, with the same `baseline`).

    Source: dpo: arXiv 2305.18290 (eq. 7), with the label smoothing of conservative DPO (E. Mitchell, "A note on DPO
    with noisy preferences and relationship to IPO"); norm: Tulu 3 (arXiv 2411.15124, eq. 6); ipo: arXiv 2310.12036
    (eq. 17) on log-probabilities per token; orpo: arXiv 2403.07691 (eq. 6); simpo: arXiv 2405.14734 (eq. 6).
    """
    if options.takes_labels:
        better = answer_losses(options, chosen, np.ones(len(chosen.tokens), np.bool_), baseline)
        worse = answer_losses(options, rejected, np.zeros(len(rejected.tokens), np.bool_), baseline)
        return PairLosses(better.losses + worse.losses, better.by_answer, worse.by_answer)
    if options.objective == "orpo":
        return _odds_ratio(options, chosen, rejected)
    found = _PAIR_LOSSES[options.variant if options.objective == "dpo" else options.objective](
        options, chosen, rejected
    )
    own = options.sft_weight / chosen.tokens
    return PairLosses(
        found.losses - own * chosen.log_probability,
        found.by_chosen - own,
        found.by_rejected,
    )


def answer_losses(
    options: PreferenceOptions, answers: Answers, good: npt.NDArray[np.bool_], baseline: float = 0.0
) -> AnswerLosses:
    """The loss of every answer under kto or apo, a good one's own loss times `sft_weight` included. good: [N].

    baseline: z of kto, nats, at least 0: how much likelier an answer became that does not belong to its prompt.

    Source: kto: arXiv 2402.01306 (eq. 8); apo: APO-zero of arXiv 2408.06266 (section 3).
    """
    kto = options.objective == "kto"
    beta, gain = options.sharpness, answers.gain - (baseline if kto else 0.0)
    sign = np.where(good, 1.0, -1.0)
    weight = np.where(good, options.desirable, options.undesirable) if kto else 1.0
    won = _sigma(sign * beta * gain)
    own = np.where(good, options.sft_weight / answers.tokens, 0.0)
    return AnswerLosses(
        weight * (1 - won) - own * answers.log_probability, -weight * sign * beta * won * (1 - won) - own
    )


def _logistic(options: PreferenceOptions, score: Floats) -> tuple[Floats, Floats]:
    """-(1 - e) log sigma(score) - e log sigma(-score), and its derivative."""
    smoothing = options.label_smoothing
    losses = (1 - smoothing) * np.logaddexp(0.0, -score) + smoothing * np.logaddexp(0.0, score)
    return losses, _sigma(score) - (1 - smoothing)


def _sigmoid(options: PreferenceOptions, chosen: Answers, rejected: Answers) -> PairLosses:
    losses, slope = _logistic(options, options.sharpness * (chosen.gain - rejected.gain))
    return PairLosses(losses, options.sharpness * slope, -options.sharpness * slope)


def _norm(options: PreferenceOptions, chosen: Answers, rejected: Answers) -> PairLosses:
    difference = chosen.gain / chosen.tokens - rejected.gain / rejected.tokens
    losses, slope = _logistic(options, options.sharpness * difference)
    slope = options.sharpness * slope
    return PairLosses(losses, slope / chosen.tokens, -slope / rejected.tokens)


def _ipo(options: PreferenceOptions, chosen: Answers, rejected: Answers) -> PairLosses:
    difference = chosen.gain / chosen.tokens - rejected.gain / rejected.tokens
    missing = difference - 1 / (2 * options.sharpness)
    return PairLosses(missing**2, 2 * missing / chosen.tokens, -2 * missing / rejected.tokens)


def _simpo(options: PreferenceOptions, chosen: Answers, rejected: Answers) -> PairLosses:
    beta = options.sharpness
    losses, slope = _logistic(options, beta * (chosen.per_token - rejected.per_token) - options.gamma)
    return PairLosses(losses, beta * slope / chosen.tokens, -beta * slope / rejected.tokens)


def _odds_ratio(options: PreferenceOptions, chosen: Answers, rejected: Answers) -> PairLosses:
    (odds_chosen, steep_chosen), (odds_rejected, steep_rejected) = map(_log_odds, (chosen, rejected))
    ratio, beta = odds_chosen - odds_rejected, options.sharpness
    slope = beta * (_sigma(ratio) - 1)
    return PairLosses(
        beta * np.logaddexp(0.0, -ratio) - chosen.per_token,
        slope * steep_chosen - 1 / chosen.tokens,
        -slope * steep_rejected,
    )


def _log_odds(answers: Answers) -> tuple[Floats, Floats]:
    """log(p / (1 - p)) of the mean token's probability p = exp(s^), and its derivative by s."""
    # A probability that rounds to 1 has no odds.
    missing = -np.expm1(np.minimum(answers.per_token, -np.finfo(np.float32).eps))
    return answers.per_token - np.log(missing), 1 / (missing * answers.tokens)


def _sigma(score: Floats) -> Floats:
    """The logistic function, without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * score))


_PAIR_LOSSES: dict[str, Callable[[PreferenceOptions, Answers, Answers], PairLosses]] = {
    "sigmoid": _sigmoid,
    "norm": _norm,
    "ipo": _ipo,
    "simpo": _simpo,
}
