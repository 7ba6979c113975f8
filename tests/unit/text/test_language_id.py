"""Pass rates by a language identifier, against the definition read off its source."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_loopai.text.language_id import fasttext_identifier, language_confusion

WORDS = ["word", "Word", "the", "words", "it's", "naïve"]


def by_letters(line: str) -> tuple[str, float]:
    """Stands in for a trained identifier: sure of Korean or English, unsure of the rest."""
    korean = sum("가" <= char <= "힣" for char in line)
    return ("ko", 0.9) if 2 * korean > len(line.replace(" ", "")) else ("en", 0.6) if korean == 0 else ("ko", 0.2)


def reference(texts: list[str]) -> tuple[int, float | None, float | None]:
    """The definition, step by step: strip, drop ASCII punctuation, lines of five words, language, then words."""
    dictionary = {word for word in WORDS if word.islower() and len(word) > 3}
    judged = line_errors = word_errors = 0
    for text in texts:
        bare = "".join(" " if char == "—" else char for char in text.strip() if char not in string.punctuation + "،")
        lines = [line for line in bare.split("\n") if len(line.split()) >= 5]
        if not lines:
            continue
        judged += 1
        languages = [language if score > 0.3 else "unknown" for language, score in map(by_letters, lines)]
        if languages.count("ko") != len(lines):
            line_errors += 1
        elif any(word in dictionary for line in lines for word in line.split()):
            word_errors += 1
    passed = judged - line_errors
    return judged, passed / judged if judged else None, (passed - word_errors) / passed if passed else None


pieces = st.sampled_from(
    ["가나다라", "마바", "word", "words,", "the", "Word", "it's", "naïve", "漢字", "—", "#", "\n", "\n\n", ""]
)


@given(st.lists(st.lists(pieces, max_size=16).map(" ".join), max_size=8))
def test_the_figures_are_the_definitions(texts: list[str]) -> None:
    found = language_confusion(texts, by_letters, WORDS)
    assert (found.n, found.lpr, found.wpr) == reference(texts)


def test_without_a_list_every_lower_case_word_counts() -> None:
    texts = ["우리는 오늘 zzzz 라는 말을 배웠다", "우리는 오늘 TV 라는 말을 배웠다"]
    assert language_confusion(texts, by_letters).wpr == 0.5
    assert language_confusion(texts, by_letters, WORDS).wpr == 1.0


def test_fasttext_itself() -> None:
    pytest.importorskip("fasttext", reason="the extra lid is not installed")
    identify = fasttext_identifier()
    texts = ["오늘은 날씨가 참 맑고 바람이 시원하다.", "Today the weather is clear and the wind is cool."]
    assert [identify(text)[0] for text in texts] == ["ko", "en"]
    assert language_confusion(texts, identify).lpr == 0.5
