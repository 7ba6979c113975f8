from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_loopai.text.hangul import compose, decompose, final_consonant, has_batchim, is_syllable, josa, nfc

SYLLABLES = st.characters(min_codepoint=0xAC00, max_codepoint=0xD7A3)


@pytest.mark.parametrize(
    ("word", "pair", "expected"),
    [
        ("사과", "은/는", "사과는"),
        ("책", "은/는", "책은"),
        ("책", "는/은", "책은"),
        ("나비", "이/가", "나비가"),
        ("바람", "을/를", "바람을"),
        ("너", "과/와", "너와"),
        ("물", "으로/로", "물로"),
        ("바다", "으로/로", "바다로"),
        ("집", "으로/로", "집으로"),
        ("하늘", "아/야", "하늘아"),
        ("민수", "아/야", "민수야"),
        ("선생님", "이에요/예요", "선생님이에요"),
        ("의사", "이에요/예요", "의사예요"),
        ("밥", "이라/라", "밥이라"),
        ("국수", "이다/다", "국수다"),
        ("10", "은/는", "10은"),
        ("2024", "은/는", "2024는"),
        ("1,000", "이/가", "1,000이"),
        ("1000000000000", "은/는", "1000000000000는"),
        ("3.2", "을/를", "3.2를"),
        ("7", "으로/로", "7로"),
        ("AI", "은/는", "AI는"),
        ("TV", "을/를", "TV를"),
        ("URL", "으로/로", "URL로"),
        ("SLM", "으로/로", "SLM으로"),
        ("team", "은/는", "team은"),
        ("style", "으로/로", "style로"),
        ("test", "을/를", "test를"),
        ("5kg", "이/가", "5kg이"),
        ("3m", "을/를", "3m를"),
        ("50%", "을/를", "50%를"),
        ("‘소나기’", "은/는", "‘소나기’는"),
        ("사과(apple)", "은/는", "사과(apple)는"),
        ("", "은/는", "는"),
    ],
)
def test_josa(word: str, pair: str, expected: str) -> None:
    assert josa(word, pair) == expected


def test_josa_reads_decomposed_words() -> None:
    word = unicodedata.normalize("NFD", "책")
    assert josa(word, "을/를") == word + "을"


def test_josa_refuses_unknown_pairs() -> None:
    with pytest.raises(ValueError, match="은/는"):
        josa("책", "에서/에")


@given(SYLLABLES)
def test_compose_inverts_decompose(syllable: str) -> None:
    assert compose(*decompose(syllable)) == syllable


@given(SYLLABLES)
def test_batchim_is_what_unicode_decomposition_says(syllable: str) -> None:
    assert has_batchim(syllable) == (len(unicodedata.normalize("NFD", syllable)) == 3)


@given(st.text())
def test_any_word_has_an_answer(word: str) -> None:
    assert has_batchim(word) == (final_consonant(word) != "")


def test_impossible_syllables_are_refused() -> None:
    with pytest.raises(ValueError, match="syllable"):
        compose("ㅏ", "ㄱ")
    with pytest.raises(ValueError, match="syllable"):
        decompose("A")
    assert not is_syllable("ㄱ")


def test_nfc_composes_and_leaves_compatibility_jamo_alone() -> None:
    assert nfc(unicodedata.normalize("NFD", "한국어 ㅋㅠ")) == "한국어 ㅋㅠ"
