"""The losses of judged answers against plain NumPy, one answer at a time, and their derivatives against differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_loopai.config import PreferenceOptions
from mlx_loopai.training.preference import Answers, answer_losses, pair_losses

OPTIONS = [
    PreferenceOptions(objective="dpo"),
    PreferenceOptions(objective="dpo", beta=0.3, label_smoothing=0.1, sft_weight=0.0),
    PreferenceOptions(objective="dpo", variant="norm", beta=2.0, label_smoothing=0.2),
    PreferenceOptions(objective="dpo", variant="ipo", beta=0.5),
    PreferenceOptions(objective="simpo", gamma=0.7, label_smoothing=0.1),
    PreferenceOptions(objective="orpo", beta=0.4),
    PreferenceOptions(objective="kto", desirable=1.3, undesirable=0.6),
    PreferenceOptions(objective="apo", beta=0.2, sft_weight=0.5),
]
BASELINE = 0.25


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def reference(options: PreferenceOptions, better: tuple, worse: tuple) -> float:
    """The loss of one pair as the papers write it; better, worse: (log-probability, the base's, tokens)."""
    beta, e = options.sharpness, options.label_smoothing
    (s_w, ref_w, n_w), (s_l, ref_l, n_l) = better, worse
    r_w, r_l = s_w - ref_w, s_l - ref_l
    own = -options.sft_weight * s_w / n_w

    def smoothed(score: float) -> float:
        return -(1 - e) * math.log(sigma(score)) - e * math.log(sigma(-score))

    match options.objective, options.variant:
        case "dpo", "sigmoid":
            return smoothed(beta * (r_w - r_l)) + own
        case "dpo", "norm":
            return smoothed(beta * (r_w / n_w - r_l / n_l)) + own
        case "dpo", "ipo":
            return (r_w / n_w - r_l / n_l - 1 / (2 * beta)) ** 2 + own
        case "simpo", _:
            return smoothed(beta * (s_w / n_w - s_l / n_l) - options.gamma) + own
        case "orpo", _:
            p_w, p_l = math.exp(s_w / n_w), math.exp(s_l / n_l)
            ratio = math.log(p_w / (1 - p_w)) - math.log(p_l / (1 - p_l))
            return -s_w / n_w - beta * math.log(sigma(ratio))
        case "kto", _:
            good = options.desirable * (1 - sigma(beta * (r_w - BASELINE)))
            return good + options.undesirable * (1 - sigma(beta * (BASELINE - r_l))) + own
        case _:
            return 1 - sigma(beta * r_w) + sigma(beta * r_l) + own


def answers(*rows: tuple) -> Answers:
    return Answers(*np.array(rows, np.float64).T)


@pytest.fixture
def rows():
    rng = np.random.default_rng(3)
    tokens = rng.integers(1, 12, 10)
    likely = -rng.uniform(0.05, 3.0, 10) * tokens
    return [tuple(row) for row in np.stack([likely, likely + rng.normal(0, 2, 10), tokens], axis=1)]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_loss_is_that_of_its_paper(options, rows):
    found = pair_losses(options, answers(*rows[:5]), answers(*rows[5:]), BASELINE)
    expected = [reference(options, *pair) for pair in zip(rows[:5], rows[5:], strict=True)]
    np.testing.assert_allclose(found.losses, expected, rtol=1e-12)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_derivatives_are_the_slopes_of_the_losses(options, rows):
    chosen, rejected = answers(*rows[:5]), answers(*rows[5:])
    found = pair_losses(options, chosen, rejected, BASELINE)
    step = 1e-6

    def moved(one: Answers, by: float) -> Answers:
        return Answers(one.log_probability + by, one.reference, one.tokens)

    by_chosen = [pair_losses(options, moved(chosen, by), rejected, BASELINE).losses for by in (step, -step)]
    by_rejected = [pair_losses(options, chosen, moved(rejected, by), BASELINE).losses for by in (step, -step)]
    np.testing.assert_allclose(found.by_chosen, (by_chosen[0] - by_chosen[1]) / (2 * step), rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(found.by_rejected, (by_rejected[0] - by_rejected[1]) / (2 * step), rtol=1e-5, atol=1e-8)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(OPTIONS), st.floats(-1e4, 0), st.floats(-1e4, 0), st.floats(-1e4, 0), st.integers(1, 100))
def test_nothing_overflows_and_every_loss_pulls_the_answers_apart(options, s_w, s_l, reference_value, tokens):
    with np.errstate(all="raise", under="ignore"):
        found = pair_losses(
            options, answers((s_w, reference_value, tokens)), answers((s_l, reference_value, tokens)), BASELINE
        )
    assert all(np.isfinite([found.losses, found.by_chosen, found.by_rejected]).flatten())
    if options.variant != "ipo" and not options.label_smoothing:
        assert found.by_chosen[0] <= 0
        assert found.by_rejected[0] >= 0


def test_single_answers_cost_what_they_cost_in_a_pair(rows):
    options = OPTIONS[-2]
    good = np.array([True] * 5 + [False] * 5)
    alone = answer_losses(options, answers(*rows), good, BASELINE)
    pairs = pair_losses(options, answers(*rows[:5]), answers(*rows[5:]), BASELINE)
    np.testing.assert_allclose(alone.losses[:5] + alone.losses[5:], pairs.losses)
    np.testing.assert_array_equal(alone.by_answer, np.concatenate([pairs.by_chosen, pairs.by_rejected]))
