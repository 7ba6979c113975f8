from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_loopai.text.style import GENRE_WORDS, ending, genre_fit, genre_scores, sentences


@pytest.mark.parametrize(
    ("sentence", "form"),
    [
        ("책을 읽습니다.", "습니다"),
        ("갔어요!", "어요"),
        ("봄이 왔다…", "다"),
        ("정말?", "말"),
        ("OK", ""),
        ("그는 웃었다.”", "었다"),
    ],
)
def test_ending(sentence: str, form: str) -> None:
    assert ending(sentence) == form


def test_entropy_of_endings() -> None:
    assert sentences(["갔습니다. 왔습니다. 봤습니다."]).ending_bits == 0
    assert sentences(["갔습니다. 갔어요. 갔다. 갔지."]).ending_bits == pytest.approx(2)


def test_lengths_over_all_texts() -> None:
    found = sentences(["가나다.", "가나다라마."])
    assert (found.count, found.mean_chars, found.deviation_chars) == (2, 5, 1)
    assert sentences([]).count == 0


@given(st.lists(st.text(max_size=80), max_size=5))
def test_figures_are_finite(texts: list[str]) -> None:
    found = sentences(texts)
    assert all(math.isfinite(value) and value >= 0 for value in vars(found).values())


def test_genre_words_decide_and_particles_do_not_hide_them() -> None:
    story = "마왕은 왕국을 불태웠고, 마법사가 지팡이를 들었다. 사랑은 없었다."
    assert genre_fit(story, "판타지") == pytest.approx(4 / 5)
    assert genre_fit(story, "무협") == 0
    assert genre_scores("아무 말도 없는 글") == {}
    with pytest.raises(KeyError):
        genre_fit(story, "랩")


def test_no_stem_stands_in_two_genres() -> None:
    stems = [stem for words in GENRE_WORDS.values() for stem in words]
    assert len(stems) == len(set(stems))
