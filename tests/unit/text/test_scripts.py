from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_loopai.text.scripts import Script, script_counts, script_of


@pytest.mark.parametrize(
    ("chars", "script"),
    [
        ("가힣ㄱㅋㅠᄀ", Script.HANGUL),
        ("aZéＡ", Script.LATIN),
        ("漢字々", Script.HAN),
        ("ひカー", Script.KANA),
        ("пЖ", Script.CYRILLIC),
        ("αΩ", Script.GREEK),
        ("زب", Script.ARABIC),
        ("ก", Script.THAI),
        ("ა", Script.OTHER_LETTER),
        ("09٣", Script.DIGIT),
        (".,“”《》…·", Script.PUNCTUATION),
        ("★☆♥©+", Script.SYMBOL),
        ("😀🇰🏻❤⏰", Script.EMOJI),
        (" \n\u3000", Script.SPACE),
        ("\u0301\ufe0f", Script.MARK),
        ("\u200b\u202e\x00", Script.CONTROL),
    ],
)
def test_script_of(chars: str, script: Script) -> None:
    found = {char: script_of(char) for char in chars}
    assert set(found.values()) == {script}


def test_reference_mark_is_punctuation() -> None:
    assert script_of("※") is Script.PUNCTUATION


def test_counts() -> None:
    assert script_counts("나는 AI 2") == {"hangul": 2, "space": 2, "latin": 2, "digit": 1}


@given(st.text())
def test_every_character_is_counted_once(text: str) -> None:
    assert sum(script_counts(text).values()) == len(text)
    assert script_counts(text) == dict(Counter(script_of(char).value for char in text))


def test_letters() -> None:
    assert Script.HAN.is_letter
    assert not Script.EMOJI.is_letter
