from __future__ import annotations

import pytest

from mlx_loopai.errors import InputError
from mlx_loopai.generation.genres import GENRES, find_genre
from mlx_loopai.generation.ranking import rank
from mlx_loopai.text.filter import clean
from mlx_loopai.text.measures import is_looping, purity

GOOD = "호랑이는 고개를 넘어 마을로 내려갔다. 마을에는 아무도 없었고 우물가에 두레박만 흔들렸다."


@pytest.mark.parametrize(
    "worse",
    [
        "",
        "좋아요 " * 20,
        GOOD + " He walked slowly down the hill.",
        GOOD[:20],
        "호랑이는 고개를 넘어 마을로 내려갔다. " * 2,
    ],
)
def test_what_is_worse_than_a_good_answer(worse: str) -> None:
    assert rank(worse, True) < rank(GOOD, True)


def test_an_answer_cut_off_is_worse_than_a_whole_one() -> None:
    assert rank(GOOD, False) < rank(GOOD, True)


def test_genre_examples_are_what_they_ask_for() -> None:
    for genre in GENRES:
        texts = [genre.system_prompt, *(text for example in genre.examples for text in example)]
        assert all(clean(text).text == text and purity(text) == 1.0 and not is_looping(text) for text in texts)
        assert len(genre.records()) >= 2
    assert find_genre("시").name == "시"
    with pytest.raises(InputError, match="추리"):
        find_genre("추리")
