"""Rewards: for everything that is checked an answer that has it and one that has not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_loopai.config import PreferenceOptions, validate_config
from mlx_loopai.data.unanswered import Wishes
from mlx_loopai.errors import InputError
from mlx_loopai.evaluation.rewards import reward_of

STORY = "옛날 옛적에 토끼가 숲속에서 임금님을 만났어요. 둘은 나무 아래에서 오래 이야기했답니다."
KOREAN = Wishes(korean=True)


def options(**reward: float) -> PreferenceOptions:
    return PreferenceOptions.model_validate({"objective": "grpo", "length": (10, 100), "reward": reward})


def measured(name: str, text: str, wishes: Wishes = KOREAN, finished: bool = True) -> float:
    return reward_of(text, finished, wishes, options(variety=1.0)).measures[name]


@pytest.mark.parametrize(
    ("name", "good", "bad", "wishes"),
    [
        ("loop", STORY, "가나다라 " * 30, KOREAN),
        ("whole", STORY, STORY + "\ufffd 끝.", KOREAN),
        ("purity", STORY, "Once upon a time 토끼.", KOREAN),
        ("length", STORY, "짧다.", KOREAN),
        ("length", "A short one.", STORY, Wishes(length=(5, 15))),
        ("genre", STORY, "우주선이 은하의 행성에 내렸어요.", Wishes(genre="동화", korean=True)),
        ("words", "The Lantern and the fox.", "Nothing here at all.", Wishes(words=("lantern", "FOX"))),
        ("format", '["a", "b"]', "a, b", Wishes(format="json")),
        ("format", '{"a": 1}', '{"a": 1', Wishes(format="json", items=1)),
        ("format", "1. a\n2) b\n\n- c", "1. a\nb\n- c", Wishes(format="list", items=3)),
        ("variety", STORY, "같은 말을 다시 한다고 했다. 같은 말을 다시 한다고 했다.", KOREAN),
    ],
)
def test_what_is_checked(name: str, good: str, bad: str, wishes: Wishes) -> None:
    assert measured(name, good, wishes) == 1
    assert measured(name, bad, wishes) < 1


def test_an_end_and_halves() -> None:
    assert measured("end", STORY) == 1
    assert measured("end", STORY, finished=False) == 0
    assert measured("words", "A lantern.", Wishes(words=("lantern", "fox"))) == 0.5
    assert measured("format", "- a\n- b", Wishes(format="list", items=3)) == 0.5
    assert measured("format", "3", Wishes(format="json")) == 0


def test_only_what_is_asked_for_is_checked() -> None:
    assert reward_of(STORY, True, Wishes(), options()).measures.keys() == {"loop", "whole", "length", "end"}
    everything = Wishes(korean=True, genre="동화", words=("토끼",), format="list")
    assert reward_of(STORY, True, everything, options(length=0)).measures.keys() == {
        "loop", "whole", "purity", "end", "genre", "words", "format",
    }  # fmt: skip


def test_the_reward_is_the_weighted_mean() -> None:
    found = reward_of("짧다.", True, KOREAN, options(length=3, end=1, loop=0, whole=0, purity=0))
    assert found.measures == {"length": 0, "end": 1}
    assert found.value == pytest.approx(1 / 4)
    assert not found.is_faultless
    assert reward_of(STORY, True, KOREAN, options()).is_faultless


def test_an_empty_answer_earns_nothing() -> None:
    found = reward_of(" \n", True, Wishes(length=(0, 9), words=(" ",)), options(variety=1))
    assert found.value == 0
    assert set(found.measures.values()) == {0.0}


wishes = st.builds(
    Wishes,
    length=st.none() | st.just((3, 20)),
    words=st.just(()) | st.just(("가", "b")),
    format=st.sampled_from([None, "json", "list"]),
    items=st.none() | st.integers(1, 3),
    genre=st.sampled_from([None, "동화"]),
    korean=st.booleans(),
)


@given(st.text("가나 ab\n-1.[]\ufffd", max_size=40), st.booleans(), wishes)
def test_rewards_are_shares(text: str, finished: bool, wished: Wishes) -> None:
    found = reward_of(text, finished, wished, options(variety=0.5))
    assert 0 <= found.value <= 1
    assert all(0 <= value <= 1 for value in found.measures.values())
    assert found.is_faultless == all(value == 1 for value in found.measures.values())


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"reward": {"loop": 0, "whole": 0, "length": 0, "end": 0}}, "are all 0; give one of them a weight"),
        ({"reward": {"gener": 1}}, "did you mean genre"),
        ({"reward": {"end": -1}}, "reward.end"),
        ({"length": [9, 5]}, "fewest and most"),
        ({"group": 1}, "group"),
        ({"temperature": 0}, "temperature"),
    ],
)
def test_options_out_of_range_are_refused(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        validate_config({"preference": {"objective": "grpo"} | given}, "recipe")
