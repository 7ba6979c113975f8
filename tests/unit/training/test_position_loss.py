"""The loss of tlpo against plain Python, one position at a time, and its derivatives against differences."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_loopai.training.position_loss import Candidates, position_losses

Token = tuple[float, float, float]  # log-probability, that before the run, score


def candidates(positions: Sequence[Sequence[Token]]) -> Candidates:
    most = max(map(len, positions))
    found, taken = np.zeros((3, len(positions), most)), np.zeros((len(positions), most), np.bool_)
    for row, tokens in enumerate(positions):
        found[:, row, : len(tokens)] = np.array(tokens).T
        taken[row, : len(tokens)] = True
    return Candidates(*found, taken)


def advantages(tokens: Sequence[Token]) -> list[float]:
    total = sum(math.exp(before) for _, before, _ in tokens)
    shares = [math.exp(before) / total for _, before, _ in tokens]
    mean = sum(share * score for share, (_, _, score) in zip(shares, tokens, strict=True))
    raw = [share * (score - mean) for share, (_, _, score) in zip(shares, tokens, strict=True)]
    return [one / sum(map(abs, raw)) for one in raw]


def loss(tokens: Sequence[Token], clip: float) -> float:
    total = 0.0
    for advantage, (now, before, _) in zip(advantages(tokens), tokens, strict=True):
        ratio = math.exp(now - before)
        total -= min(ratio * advantage, min(max(ratio, 1 - clip), 1 + clip) * advantage)
    return total


LIKELY = st.floats(-8, -0.01)
TOKENS = st.lists(st.tuples(LIKELY, LIKELY, st.sampled_from((0.0, 0.5, 1.0))), min_size=2, max_size=6).filter(
    lambda tokens: len({score for _, _, score in tokens}) > 1
)


@given(st.lists(TOKENS, min_size=1, max_size=3), st.sampled_from((0.1, 0.2, 0.9)))
def test_losses_are_those_of_the_formula(positions: list[list[Token]], clip: float) -> None:
    found = position_losses(candidates(positions), clip)
    np.testing.assert_allclose(found.losses, [loss(tokens, clip) for tokens in positions], rtol=1e-9, atol=1e-12)
    assert not found.by_candidate[~candidates(positions).taken].any()


@given(TOKENS, st.sampled_from((0.1, 0.2, 0.9)))
def test_derivatives_are_those_of_the_loss(tokens: list[Token], clip: float) -> None:
    # At the edge of the clip there is no derivative.
    tokens = [one for one in tokens if all(abs(math.exp(one[0] - one[1]) - edge) > 1e-3 for edge in (1 - clip, 1 + clip))]  # fmt: skip
    if len({score for _, _, score in tokens}) < 2:
        return
    found = position_losses(candidates([tokens]), clip).by_candidate[0]
    small = 1e-6
    for place, (now, before, score) in enumerate(tokens):
        up, down = (
            [*tokens[:place], (now + change, before, score), *tokens[place + 1 :]] for change in (small, -small)
        )
        expected = (loss(up, clip) - loss(down, clip)) / (2 * small)
        assert found[place] == pytest.approx(expected, rel=1e-4, abs=1e-7)


@given(TOKENS)
def test_what_pushes_up_and_what_pushes_down_weigh_one_half_each(tokens: list[Token]) -> None:
    found = candidates([tokens]).advantage[0]
    np.testing.assert_allclose(found, advantages(tokens), rtol=1e-9, atol=1e-12)
    assert found[found > 0].sum() == pytest.approx(0.5)
    assert found[found < 0].sum() == pytest.approx(-0.5)
    best = max(score for _, _, score in tokens)
    assert all(one >= 0 for one, (_, _, score) in zip(found, tokens, strict=True) if score == best)


def test_before_the_first_step_nothing_is_clipped_and_the_pull_is_the_advantage() -> None:
    known = candidates([[(-1.0, -1.0, 1.0), (-0.7, -0.7, 0.0), (-3.0, -3.0, 1.0)]])
    found = position_losses(known, 0.2)
    np.testing.assert_allclose(found.by_candidate, -known.advantage)
    assert found.losses[0] == pytest.approx(0, abs=1e-12)
    assert known.odds_gained[0] == pytest.approx(0)


def test_beyond_the_clip_nothing_pulls_further_but_back_it_does() -> None:
    good_far, bad_far = (-1.0, -1.5, 1.0), (-1.0, -0.5, 0.0)  # ratios 1.65 and 0.61
    assert not position_losses(candidates([[good_far, bad_far]]), 0.2).by_candidate.any()
    good_lost, bad_gained = (-1.5, -1.0, 1.0), (-0.5, -1.0, 0.0)
    found = position_losses(candidates([[good_lost, bad_gained]]), 0.2).by_candidate[0]
    assert found[0] < 0 < found[1]


def test_equal_scores_teach_nothing() -> None:
    known = candidates([[(-1.0, -2.0, 1.0), (-0.7, -0.7, 1.0)]])
    assert not known.advantage.any()
    assert not position_losses(known, 0.2).by_candidate.any()


def test_gains_are_those_of_all_better_tokens_together() -> None:
    known = candidates([[(math.log(0.3), math.log(0.1), 1.0), (math.log(0.2), math.log(0.1), 1.0), (math.log(0.25), math.log(0.5), 0.0)]])  # fmt: skip
    assert known.better_gained[0] == pytest.approx(math.log(0.5 / 0.2))
    assert known.odds_gained[0] == pytest.approx(math.log(0.5 / 0.2) + math.log(2))
