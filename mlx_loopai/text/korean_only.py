"""Tells whether a text is Korean and nothing else, and which words of it are foreign, by the strictest rules."""

from __future__ import annotations

from dataclasses import replace

import regex

from mlx_loopai.text.filter import clean
from mlx_loopai.text.hangul import nfc
from mlx_loopai.text.measures import purity
from mlx_loopai.text.policy import Policy
from mlx_loopai.text.words import foreign_spans

# Hanja in brackets count too. Names in capitals and units do not.
STRICT = Policy(latin="acronyms", han="drop")
# Latin words in a row on one line, with nothing but spaces, quotes and the like between them.
_WORD = r"[\p{Latin}&&\p{L}][\p{Latin}\p{M}\d'’\-]*+"
_WORDS_IN_A_ROW = regex.compile(rf"(?P<word>{_WORD})(?:[^\p{{L}}\p{{N}}\n,，、·/&|()]++(?P<word>{_WORD}))++", regex.V1)
# A particle follows a name of several words directly (New York Times에), and no title or sentence in English.
_PARTICLE = regex.compile(r"[\"'”’)*]*+\p{Hangul}", regex.V1)
_LONGEST_NAME = 2
# Up to the end: from the first letter after the last Hangul of the line.
_RUN_BEFORE = regex.compile(r"[\p{L}--\p{Hangul}][^\p{Hangul}\n]*+\Z", regex.V1)


def is_korean_only(text: str) -> bool:
    """True when all letters are Hangul and the filter finds nothing to remove; False for a text without letters."""
    return purity(text) == 1 and not clean(text, STRICT).removed


def holds_foreign_words(text: str, quoted: frozenset[str] = frozenset()) -> bool:
    """True when there are foreign words, even ones that the filter lets pass because Korean grammar binds them.

    Latin words in capitals are names, but three in a row are not (`Effective Communication Skills: `), unless Hangul
    follows directly (`New York Times에`) or they are acronyms. quoted: words of the request in lower case, which an
    answer may repeat.
    """
    return _first_foreign_word(nfc(text), quoted) is not None


def first_foreign_run(text: str, quoted: frozenset[str] = frozenset()) -> int | None:
    """Where in `text`, brought to NFC, the foreign run begins that holds the first word of `holds_foreign_words`.

    A run goes back to the last Hangul on its line: in `The sea was calm` the word `sea` is the first that is no name,
    and the run begins with `The`. None: there is no such word.
    """
    composed = nfc(text)
    first = _first_foreign_word(composed, quoted)
    if first is None:
        return None
    begun = _RUN_BEFORE.search(composed[:first])
    return first if begun is None else begun.start()


def _first_foreign_word(composed: str, quoted: frozenset[str]) -> int | None:
    words = (start for start, _ in foreign_spans(composed, replace(STRICT, quoted=quoted)))
    titles = (found.start() for found in _WORDS_IN_A_ROW.finditer(composed) if _is_english(found, quoted))
    return min((first for first in (next(words, None), next(titles, None)) if first is not None), default=None)


def _is_english(row: regex.Match[str], quoted: frozenset[str]) -> bool:
    """Whether words in a row are more than a name, an acronym or what the request holds."""
    if _PARTICLE.match(row.string, row.end()):
        return False
    words = [word for word in row.captures("word") if not word.isupper()]
    return len(words) > _LONGEST_NAME and not quoted.issuperset(word.lower() for word in words)
