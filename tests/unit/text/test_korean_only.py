"""What counts as Korean and nothing else, and as holding foreign words."""

from __future__ import annotations

import pytest

from mlx_loopai.text.korean_only import holds_foreign_words, is_korean_only


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
