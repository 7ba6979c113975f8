"""What counts as Korean and nothing else, and as holding foreign words."""

from __future__ import annotations

import pytest

from mlx_loopai.text.korean_only import first_foreign_run, holds_foreign_words, is_korean_only


@pytest.mark.parametrize(
    ("text", "only_korean", "foreign"),
    [
        ("바다는 3월에도 고요했다.", True, False),
        ("바다는 very calm 고요했다.", False, True),
        ("바다(海)는 고요했다.", False, True),
        ("The sea is calm today.", False, True),
        ("바다의 calm함을 보았다.", False, True),
        ("AI는 고요했다.", False, False),
        ("바다는 😀 고요했다.", False, False),
        ('"Brexit: A Major Change in European Union Policy"', False, True),
        ("1. **Support for Small Businesses**", False, True),
        ("제목: Effective Communication Skills:", False, True),
        ("Tangled is a Korean", False, True),
        ("New York Times에 실렸다.", False, False),
        ("“Java Virtual Machine”은 빠르다.", False, False),
        ("Machine Learning: 기계 학습", False, False),
        ("SNS OTT PDF 파일", False, False),
        ("iPhone, iPad, MacBook 등", False, False),
        ("Seoul\nBusan\nDaegu", False, False),
        ("123.", False, False),
        ("", False, False),
    ],
)
def test_korean_alone_and_foreign_words(text: str, only_korean: bool, foreign: bool) -> None:
    assert is_korean_only(text) is only_korean
    assert holds_foreign_words(text) is foreign


def test_words_of_the_request_are_not_foreign() -> None:
    assert not holds_foreign_words("바다는 very 고요했다.", frozenset({"very"}))
    assert holds_foreign_words("바다는 very calm 고요했다.", frozenset({"very"}))
    assert not holds_foreign_words("제목: The Old Man", frozenset({"the", "old", "man"}))
    assert holds_foreign_words("제목: The Old Man and His Sea", frozenset({"the", "old", "man"}))


def test_a_title_in_english_begins_with_its_first_word() -> None:
    text = '제목: "Effective Communication Skills"'
    assert first_foreign_run(text) == text.index("E")
    assert first_foreign_run("제목: 바다") is None
