"""Regular expressions of a run of foreign text: words in a foreign script, and what may come between two of them."""

from __future__ import annotations

import re

import regex

from mlx_loopai.text.addresses import URL_PATTERN
from mlx_loopai.text.characters import PLAIN, SIGNS_AND_HANGUL

MAX_GAP_CHARS = 24
MAX_GLOSS_CHARS = 80

# Quotation and title marks bind what they enclose; brackets only hold it together.
QUOTES = dict(zip("“‘「『《〈\"'«", "”’」』》〉\"'»", strict=True))
BRACKETS = dict(zip("([{（〔", ")]}）〕", strict=True))
CLOSER = QUOTES | BRACKETS
EMPHASIS = "*_"
# Signs that may belong to the run after them, so that they are held back with it.
LEADING = "".join(CLOSER) + EMPHASIS + "@#¿¡"

# An angle bracket that was not a tag may become one when text inside it is removed.
OPEN_ANGLE = re.compile(r"<[/!|｜A-Za-z][^>]*\Z")

HANGUL_RANGES = (
    r"\u1100-\u11ff\u302e\u302f\u3131-\u318e\u3200-\u321e\u3260-\u327e\ua960-\ua97c\uac00-\ud7fb\uffa0-\uffdc"
)
HANGUL = re.compile(f"[{HANGUL_RANGES}]")
HANGUL_OR_TICK = re.compile(f"[`{HANGUL_RANGES}]")
# Where a run that is too long to be looked at as a whole ends.
LONG_RUN_END = re.compile(rf"[`\n{HANGUL_RANGES}]")

_OPEN_GLOSS = rf"[(（\[〔](?<=[{HANGUL_RANGES}].)[^()（）\[\]〔〕`\n]"
GLOSS = re.compile(rf"{_OPEN_GLOSS}{{1,{MAX_GLOSS_CHARS}}}[)）\]〕]")
GLOSS_TO_COME = re.compile(rf"{_OPEN_GLOSS}{{0,{MAX_GLOSS_CHARS}}}\Z|[(（\[〔](?<=[{HANGUL_RANGES}].)\Z")

# 〇 is script Han, but in Korean it is a blank in a name: 김〇〇.
_LETTER = r"[[\p{L}--[\p{Hangul}\p{Common}\p{Inherited}\p{Han}]][\p{Han}--[〇]]]"
_JOINER = r"[-'’._@&/+]"
_WORD = (
    rf"(?:{URL_PATTERN}|"
    rf"{_LETTER}[{_LETTER}\p{{M}}0-9ー゛゜]*+(?:{_JOINER}[{_LETTER}0-9][{_LETTER}\p{{M}}0-9]*+)*+)"
)
_GAP = rf"[^\p{{L}}〇`\n]{{1,{MAX_GAP_CHARS}}}+"
# Text right after an address is in the same run, as it would be if the address were removed.
RUN = regex.compile(rf"{_WORD}++(?:{_GAP}{_WORD}++)*+", regex.V1)
WORD = regex.compile(_WORD, regex.V1)
GAP = regex.compile(r"[^\p{L}〇`\n]*+", regex.V1)

# The same for ASCII letters among plain signs, for the standard library's `re` and its speed.
_SIGNS = SIGNS_AND_HANGUL.replace(r"\n", "").replace("가-힣ㄱ-ㅎㅏ-ㅣ", "").replace("\\[-`", r"\[-_")
_ASCII_WORD = rf"[A-Za-z][A-Za-z0-9]*+(?:{_JOINER}[A-Za-z0-9]++)*+"
ASCII_WORD = re.compile(_ASCII_WORD)
ASCII_RUN = re.compile(
    rf"{_ASCII_WORD}(?:[{_SIGNS}]{{1,{MAX_GAP_CHARS}}}+{_ASCII_WORD})*+"
    rf"(?=[{_SIGNS}]{{0,{MAX_GAP_CHARS + 1}}}+(?:[{PLAIN}]|\Z))"
)

# What follows a run: punctuation, closers, then as much text as decides whether it is bound. Every part has a maximum
# length, so that the decision does not depend on how much text has arrived.
MARKS_AND_CLOSERS = re.compile(
    r"(?P<mark>(?:[.,!?…:;~、。，．！？：；]| (?=[!?:;])){0,16}+)"
    rf"(?P<close>[\"'”’」』》〉»)\]}}）〕{EMPHASIS}]{{0,8}}+)"
)
_LOOKAHEAD_SIGNS, _LOOKAHEAD_SYLLABLES = 2 * MAX_GAP_CHARS, 16
MAX_LOOKAHEAD_CHARS = _LOOKAHEAD_SIGNS + _LOOKAHEAD_SYLLABLES
LOOKAHEAD = regex.compile(rf"[^\p{{L}}`\n]{{0,{_LOOKAHEAD_SIGNS}}}+[{HANGUL_RANGES}]{{0,{_LOOKAHEAD_SYLLABLES}}}+")

_COMMON_PARTICLES = "은|는|이|가|을|를|의|에|에서|로|으로|와|과|도|만|라고|이라고|라는|이라는"


def quiet_pattern(keeps_glosses: bool) -> re.Pattern[str]:
    """Pattern of text in which nothing can be removed, up to the first place that must be examined.

    Such text is Korean with its signs, inline code, brackets after Hangul, and single Latin words that a particle
    follows or that are all capitals before Hangul: these are runs of their own, and stay.
    """
    open_signs = r"(\[（〔"
    signs = SIGNS_AND_HANGUL.replace("\\[-`", r"\\\]-_").replace("!-@", r"!-')-@").replace(r"\u3014", r"\u3015")
    parts = [
        rf"[{signs}]++",
        r"`[^`\n]*+`",
        rf"(?<![{HANGUL_RANGES}])[{open_signs}]",
        rf"[A-Za-z][A-Za-z0-9]*+(?:[-_'’][A-Za-z0-9]++)*+(?=(?:{_COMMON_PARTICLES})[ .,!?\n)])",
        r"[A-Z][A-Z0-9]++(?= ?[가-힣])",
    ]
    if keeps_glosses:
        parts.insert(2, rf"(?<=[가-힣])\([가-힣A-Za-z0-9 ,.\-*_'\"+&]{{1,{MAX_GLOSS_CHARS}}}+\)")
    return re.compile("(?:" + "|".join(parts) + ")*+")
