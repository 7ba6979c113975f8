"""Splits a run of foreign text into sentences and judges which of them are foreign."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import regex

from mlx_loopai.text.addresses import URL, has_address
from mlx_loopai.text.policy import Policy
from mlx_loopai.text.prose import is_prose
from mlx_loopai.text.run_patterns import ASCII_WORD, WORD
from mlx_loopai.text.words import is_allowed_latin

# Not after the full stop of a short form: `Mr. Kim`, `p.m. `, `No. 1`.
_SENTENCE_END = regex.compile(
    r"(?:(?:(?<!\b\p{Lu}\p{L}{0,2}|\b\p{L}|\.\p{L})\.|[!?…]|\.{2,})[.!?…]*+[\"'”’」』)\]*_]*+\s++|[。！？]++[”’」』)]*+\s*+)(?=.)"
)
_MAX_REMEMBERED_CHARS = 60
_END_MARK = re.compile(r"[.!?…]*[^.!?…\w]*\Z")
_SCRIPT_BUT_LATIN = regex.compile(r"[\p{L}--[\p{Latin}\p{Hangul}\p{Common}\p{Inherited}]]|\p{Han}", regex.V1)
_HAN = regex.compile(r"\p{Han}")
_GREEK_SIGNS = regex.compile(r"\p{Greek}(?:[ 、。，；：！？・]+\p{Greek})*[、。，；：！？]*")


@dataclass(frozen=True, slots=True)
class Unit:
    """A sentence of a run, or a part of one: `text`, from `start` in the run, its words and its end mark."""

    start: int
    text: str
    words: tuple[str, ...]
    mark: str


# The sentences of a run, and whether each goes when it is not bound. Nothing when all stay, as they do in most runs.
Judged = tuple[tuple[Unit, bool], ...]


@lru_cache(maxsize=16)
def judge(policy: Policy) -> Callable[[str, str], Judged]:
    """The function that judges a run and the mark after it under `policy`; it caches short runs, such as names."""

    def judged(text: str, mark: str) -> Judged:
        units = _units_of(text)
        last = units[-1]
        found = tuple((unit, _is_foreign(unit, unit.mark + mark * (unit is last), policy)) for unit in units)
        return found if any(foreign for _, foreign in found) else ()

    remembered = lru_cache(maxsize=1 << 11)(judged)
    return lambda text, mark: (remembered if len(text) < _MAX_REMEMBERED_CHARS else judged)(text, mark)


def _units_of(text: str) -> list[Unit]:
    """The sentences of a run; every character is in one. Addresses do not count as words."""
    places = [0, *(found.end() for found in _SENTENCE_END.finditer(text)), len(text)]
    pattern = ASCII_WORD if text.isascii() else WORD
    units = []
    for begin, end in pairwise(places):
        sentence = text[begin:end]
        said = URL.sub("", sentence) if has_address(sentence) else sentence
        units.append(Unit(begin, sentence, tuple(pattern.findall(said)), _END_MARK.search(said).group()))  # type: ignore[union-attr]
    return units


def _is_foreign(unit: Unit, mark: str, policy: Policy) -> bool:
    """True for a sentence in another script, or in prose of Latin letters."""
    if not unit.text.isascii() and any(is_other_script(word, policy) for word in unit.words):
        return True
    if policy.latin == "keep":
        return False
    words = unit.words
    if policy.latin == "acronyms":
        return any(not is_allowed_latin(word) and word.lower() not in policy.quoted for word in words)
    # Three words and more between commas are a list: loop, if, else.
    is_list = len(words) > 2 and unit.text.count(",") == len(words) - 1
    return not is_list and is_prose(words, mark, policy.quoted)


def is_other_script(word: str, policy: Policy) -> bool:
    """True for words in neither Latin nor Hangul; a Greek letter alone is a sign (플러스 α)."""
    if not _SCRIPT_BUT_LATIN.search(word) or _GREEK_SIGNS.fullmatch(word):
        return False
    return not (policy.han == "keep" and not _SCRIPT_BUT_LATIN.search(_HAN.sub("", word)))


def holds_han(text: str) -> bool:
    return _HAN.search(text) is not None
