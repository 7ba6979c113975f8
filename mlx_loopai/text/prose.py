"""Decides whether words in Latin letters are a sentence or phrase of some language, or names and terms."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import regex

from mlx_loopai.text.frequency import (
    ENGLISH,
    OTHER_LATIN_LANGUAGES,
    is_common_past,
    is_english_adjective,
    is_grammatical,
    odds,
)

_PLAIN_WORD = regex.compile(r"\p{L}[\p{L}\p{M}]*+(?:['-]\p{L}[\p{L}\p{M}]*+)*+")
_LATIN = regex.compile(r"\p{Latin}")
# Words that titles write in lower case (articles, conjunctions, short prepositions), in seven languages.
_SMALL_IN_TITLES = frozenset(
    "a an the and or nor but of in on at to by for from with as vs de la le les el los du des der die das den dem von "
    "van di da del della y e et und o".split()
)
_ENDS = frozenset(".!?…")


@dataclass(frozen=True, slots=True)
class _Demand:
    """The mean `odds` that words must reach to count as prose: without (`plain`) and with signs of a `sentence`."""

    plain: float
    sentence: float


# Chosen on tests/unit/text/foreign_runs/tuned.txt, measured on held_out.txt beside it.
_DEMANDS = {1: _Demand(1.65, 1.65), 2: _Demand(1.6, 1.1), 3: _Demand(1.25, 0.8)}
# One or two words without a word of grammar may be a term of common words: loss, learning rate.
_WITHOUT_GRAMMAR = 2.0
# An explanation of a Korean term, in brackets or after a colon, is short, and not a clause with subject and verb.
_MAX_TERM_WORDS = 4
_CLAUSE_ODDS, _LONG_CLAUSE_ODDS = 2.15, 1.7
_MIN_MIXED_WORDS = 6
_ADVERB_ODDS = 2.05
_MAX_PLAIN_TERM = 2
_MIN_STEM_CHARS = 4
_ABBREVIATIONS = frozenset(("etc", "cf", "vs", "ibid"))
# as, etc. in Korean are short forms, and a compound alone is a term: e-mail, not-a-number.
_MAX_SIGN_CHARS = 2
_AMONG_NAMES = _Demand(1.9, 1.6)
# One word with a capital may be a name: `However` is none, `Friends` may be one, `Hello!` is an exclamation.
_CAPITAL, _CAPITAL_WITH_MARK, _EXCLAMATION = 2.4, 1.4, 0.6


def is_prose(words: Sequence[str], mark: str = "", quoted: frozenset[str] = frozenset()) -> bool:
    """True for the words of a sentence or a phrase, in their order; False for names, terms and titles.

    mark: the punctuation after the last word. quoted: words, in lower case, that count neither way. The decision is by
    the mean `odds` of all words but names, in English and other languages with Latin letters. A title (`The Old Man and
    the Sea`) is a name.
    """
    if len(words) == 1 and words[0][:1].isupper():
        return _is_exclamation(words[0], mark, quoted)
    if _is_title(words):
        return False
    if len(words) >= 3 and all(word.isupper() for word in words):
        words = [word.lower() for word in words]
    plain = [
        part
        for index, word in enumerate(words)
        for part in _plain_parts(word, index == 0)
        if part not in quoted | _ABBREVIATIONS
    ]
    if plain[-2:] == ["et", "al"]:
        plain = plain[:-2]
    # Letters alone are variables and labels: a%a, A B.
    if all(len(part) == 1 for part in plain):
        return False
    if len(words) == 1 and (len(words[0]) <= _MAX_SIGN_CHARS or "-" in words[0]):
        return False
    demand = _DEMANDS[min(len(plain), max(_DEMANDS))] if len(plain) > 1 or len(words) == 1 else _AMONG_NAMES
    goes_on = any(_plain_parts(word, False) for word in words[1:])
    is_sentence = (words[0][:1].isupper() and goes_on) or bool(_ENDS.intersection(mark))
    needed = demand.sentence if is_sentence else demand.plain
    if not is_sentence and len(plain) <= _MAX_PLAIN_TERM and not any(map(is_grammatical, plain)):
        needed = max(needed, _WITHOUT_GRAMMAR)
    return any(_mean_odds(plain, language) >= needed for language in _languages(plain))


def is_clause(words: Sequence[str]) -> bool:
    """True for English words that cannot be a term; stricter than `is_prose`."""
    plain = [part for index, word in enumerate(words) for part in _plain_parts(word, index == 0)]
    needed = _CLAUSE_ODDS if len(plain) == 2 else _LONG_CLAUSE_ODDS
    return len(words) > _MAX_TERM_WORDS or (len(plain) > 1 and _mean_odds(plain, ENGLISH) >= needed)


def _is_exclamation(word: str, mark: str, quoted: frozenset[str]) -> bool:
    parts = [part for part in _plain_parts(word, True) if part not in quoted]
    if not parts:
        return False
    exclaimed = not {"!", "?"}.isdisjoint(mark)
    # Before a colon stands a label: `Note: `, `Python: `.
    needed = _EXCLAMATION if exclaimed else _CAPITAL if mark in ("", ":") else _CAPITAL_WITH_MARK
    return _mean_odds(parts, ENGLISH) >= needed


def _is_title(words: Sequence[str]) -> bool:
    """True when every word has a capital, except inner words that titles write in lower case."""
    if len(words) < 2 or words[0] == "I":
        return False
    capital = [not word[:1].islower() for word in words]
    small = [word for word, is_capital in zip(words, capital, strict=True) if not is_capital]
    return capital[0] and capital[-1] and all(word in _SMALL_IN_TITLES for word in small)


@lru_cache(maxsize=1 << 13)
def _plain_parts(word: str, first: bool) -> tuple[str, ...]:
    """The lower-case parts of a word that is not a name, or nothing: names have capitals, digits or signs."""
    word = word.replace("’", "'")
    plain = (
        word.islower() or word == "I" or word.startswith("I'") or (first and word[:1].isupper() and word[1:].islower())
    )
    if not plain or not _PLAIN_WORD.fullmatch(word):
        return ()
    return tuple(word.lower().split("-"))


def _languages(words: Sequence[str]) -> Iterable[str]:
    yield ENGLISH
    # A word alone is English or a term: `die` and `son` are words of four languages.
    if len(words) > 1 or not words[0].isascii():
        yield from OTHER_LATIN_LANGUAGES


def _mean_odds(words: Sequence[str], language: str) -> float:
    """The mean over the words; in a longer text, English words count as well as those of the other language."""
    mixed = len(words) >= _MIN_MIXED_WORDS
    return sum(max(_odds(word, language), mixed and _odds(word, ENGLISH)) for word in words) / len(words)


@lru_cache(maxsize=1 << 16)
def _odds(word: str, language: str) -> float:
    found = odds(word, language)
    inflected = language == ENGLISH and found < _ADVERB_ODDS and (_is_adverb(word) or is_common_past(word))
    return _ADVERB_ODDS if inflected else found


def _is_adverb(word: str) -> bool:
    """True for adverbs such as `quietly`: Korean text borrows none, but most are too rare for counts to show it."""
    stem = word.removesuffix("ly")
    if stem == word or len(stem) < _MIN_STEM_CHARS:
        return False
    return any(is_english_adjective(base) for base in (stem, f"{stem}le", stem.removesuffix("i") + "y"))
