"""The loss of grpo beside loops over single answers and tokens, and what must hold for all rewards."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mlx_loopai.training.group_loss import advantages, clipped_losses, has_spread

rewards = arrays(
    np.float64, st.tuples(st.integers(1, 4), st.integers(2, 6)), elements=st.sampled_from([0, 0.25, 0.7, 1])
)
tokens = st.integers(1, 20)


@given(rewards)
def test_advantages_are_deviations_from_the_mean_of_the_group(given_rewards: np.ndarray) -> None:
    found = advantages(given_rewards)
    for group, own in zip(given_rewards.tolist(), found, strict=True):
        mean = sum(group) / len(group)
        deviation = math.sqrt(sum((one - mean) ** 2 for one in group) / len(group))
        if len(set(group)) == 1:
            assert not own.any()
        else:
            np.testing.assert_allclose(own, [(one - mean) / (deviation + 1e-4) for one in group], rtol=1e-9)
    np.testing.assert_allclose(found.sum(axis=1), 0, atol=1e-9)
    assert has_spread(given_rewards).tolist() == [len(set(group)) > 1 for group in given_rewards.tolist()]
    np.testing.assert_allclose(advantages(given_rewards + 3.0), found, atol=1e-9)


def test_rounding_is_no_spread() -> None:
    assert not has_spread(np.array([[0.1 + 0.2, 0.3, 0.3, 0.3]])).any()


@given(
    arrays(np.float64, 8, elements=st.floats(-2, 2)),
    arrays(np.float64, 8, elements=st.floats(-2, 2)),
    st.sampled_from([0.1, 0.2, 0.9]),
)
def test_the_clip_is_that_of_ppo(gained: np.ndarray, advantage: np.ndarray, clip: float) -> None:
    found = clipped_losses(gained, advantage, clip)
    for place, (gain, own) in enumerate(zip(gained.tolist(), advantage.tolist(), strict=True)):
        ratio = math.exp(gain)
        held = min(max(ratio, 1 - clip), 1 + clip)
        assert found.losses[place] == pytest.approx(-min(ratio * own, held * own))
        pushed_far = (own > 0 and ratio > 1 + clip) or (own < 0 and ratio < 1 - clip)
        assert found.by_token[place] == pytest.approx(0.0 if pushed_far else -ratio * own)


@given(arrays(np.float64, 5, elements=st.floats(-3, 3)))
def test_a_model_that_has_not_changed_follows_the_advantages(advantage: np.ndarray) -> None:
    found = clipped_losses(np.zeros(5), advantage, 0.2)
    np.testing.assert_allclose(found.losses, -advantage)
    np.testing.assert_allclose(found.by_token, -advantage)
