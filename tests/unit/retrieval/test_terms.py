from __future__ import annotations

import re
import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_loopai.retrieval.terms import has_pairs, text_terms, with_particles


def spelled(text: str) -> list[str]:
    """The terms as text."""
    return [
        "".join(chr(part) for part in (int(term) >> 21, int(term) & (2**21 - 1)) if part) for term in text_terms(text)
    ]


def reference(text: str) -> list[str]:
    words = re.sub(r"[\W_]+", " ", unicodedata.normalize("NFC", text).casefold()).split()
    return [word[start : start + 2] for word in words for start in range(max(1, len(word) - 1))]


def test_pairs_stay_inside_words() -> None:
    assert spelled("나는 A 집에_간다. 3 ab12") == ["나는", "a", "집에", "간다", "3", "ab", "b1", "12"]
    assert spelled("…!? _") == []
    assert spelled("") == []


def test_composed_and_decomposed_hangul_are_the_same_terms() -> None:
    assert spelled(unicodedata.normalize("NFD", "등대지기")) == ["등대", "대지", "지기"]


@settings(max_examples=50, deadline=None)
@given(st.text(alphabet=st.one_of(st.characters(), st.sampled_from("가나다라 ab.1_\ud800"))))
def test_the_terms_are_the_words_pairs(text: str) -> None:
    assert spelled(text) == reference(text)


def test_a_syllable_alone_is_looked_for_with_particles() -> None:
    asked = set(with_particles(text_terms("책 이야기")).tolist())
    assert set(text_terms("책 이야기").tolist()) <= asked
    for text in ("책을", "그 책이", "만화책은", "책"):
        assert asked & set(text_terms(text).tolist()), text
    assert not set(with_particles(text_terms("책")).tolist()) & set(text_terms("책상 책꽂이 이야기").tolist())
    assert with_particles(text_terms("등대 A b")).tolist() == text_terms("등대 A b").tolist()


def test_which_queries_have_pairs() -> None:
    assert has_pairs(text_terms("책 이야기"))
    assert not has_pairs(text_terms("책 물 a 1"))
