"""Which script a character belongs to.

Source: Unicode scripts (UAX #24) and general categories, as the `regex` package carries them.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from enum import StrEnum
from functools import lru_cache

import regex


class Script(StrEnum):
    """The classes `script_of` tells apart; letters come first, `Script.is_letter` says which they are."""

    HANGUL = "hangul"
    LATIN = "latin"
    HAN = "han"
    KANA = "kana"
    CYRILLIC = "cyrillic"
    GREEK = "greek"
    ARABIC = "arabic"
    THAI = "thai"
    DEVANAGARI = "devanagari"
    HEBREW = "hebrew"
    OTHER_LETTER = "other_letter"
    DIGIT = "digit"
    PUNCTUATION = "punctuation"
    SYMBOL = "symbol"
    EMOJI = "emoji"
    MARK = "mark"
    SPACE = "space"
    CONTROL = "control"

    @property
    def is_letter(self) -> bool:
        """True for the classes that count as letters in `measures.purity`."""
        return self not in _NOT_LETTERS


_NOT_LETTERS = {
    Script.DIGIT,
    Script.PUNCTUATION,
    Script.SYMBOL,
    Script.EMOJI,
    Script.MARK,
    Script.SPACE,
    Script.CONTROL,
}

# Pictographs that Korean prose uses as plain text symbols: they are text, unless an emoji sequence takes them in.
TEXT_SYMBOLS = frozenset("©®™‼⁉ℹ↔↕↖↗↘↙↩↪▪▫▶◀◻◼☎☑☆★♀♂♠♣♥♦♨✔✖〰〽㊗㊙")

# Extended_Pictographic alone would take ☞ and playing-card signs too; beyond the BMP it reserves room for new emoji.
EMOJI = regex.compile(r"[[\p{Emoji}--[0-9#*]][\p{Extended_Pictographic}&&[\U00010000-\U0010ffff]]]", regex.V1)
_LETTER_SCRIPTS = (
    (Script.HANGUL, regex.compile(r"\p{Hangul}")),
    (Script.LATIN, regex.compile(r"\p{Latin}")),
    (Script.HAN, regex.compile(r"\p{Han}")),
    (Script.KANA, regex.compile(r"[\p{Hiragana}\p{Katakana}ー]")),
    (Script.CYRILLIC, regex.compile(r"\p{Cyrillic}")),
    (Script.GREEK, regex.compile(r"\p{Greek}")),
    (Script.ARABIC, regex.compile(r"\p{Arabic}")),
    (Script.THAI, regex.compile(r"\p{Thai}")),
    (Script.DEVANAGARI, regex.compile(r"\p{Devanagari}")),
    (Script.HEBREW, regex.compile(r"\p{Hebrew}")),
)
_CATEGORIES = {
    "N": Script.DIGIT,
    "P": Script.PUNCTUATION,
    "S": Script.SYMBOL,
    "M": Script.MARK,
    "Z": Script.SPACE,
    "C": Script.CONTROL,
}


_SYLLABLES, _ASCII_LETTERS = re.compile("[가-힣]+"), re.compile("[A-Za-z]+")


@lru_cache(maxsize=1 << 14)
def script_of(char: str) -> Script:
    """The class of one character."""
    if char.isspace():
        return Script.SPACE
    if char not in TEXT_SYMBOLS and EMOJI.match(char):
        return Script.EMOJI
    category = unicodedata.category(char)[0]
    if category != "L":
        return _CATEGORIES[category]
    return next((script for script, pattern in _LETTER_SCRIPTS if pattern.match(char)), Script.OTHER_LETTER)


def script_counts(text: str) -> dict[str, int]:
    """How many characters of each script `text` holds: script name -> count, only scripts that occur.

    The text is taken as it is; normalise it first (`hangul.nfc`), or decomposed syllables count once per jamo.
    """
    # Most characters of most texts, counted without looking at each.
    without_hangul = _SYLLABLES.sub("", text)
    rest = _ASCII_LETTERS.sub("", without_hangul)
    counts = Counter(
        {Script.HANGUL.value: len(text) - len(without_hangul), Script.LATIN.value: len(without_hangul) - len(rest)}
    )
    for char, count in Counter(rest).items():
        counts[_NAMES[char]] += count
    return {name: count for name, count in counts.items() if count}


class _Names(dict[str, str]):
    """The name of a character's script: a table for what was met, since texts are made of few characters."""

    def __missing__(self, char: str) -> str:
        name = self[char] = script_of(char).value
        return name


_NAMES = _Names()
