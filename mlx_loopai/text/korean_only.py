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
# Up to the end: from the first letter after the last Hangul of the line.
_RUN_BEFORE = regex.compile(r"[\p{L}--\p{Hangul}][^\p{Hangul}\n]*+\Z", regex.V1)


def is_korean_only(text: str) -> bool:
    """True when all letters are Hangul and the filter finds nothing to remove; False for a text without letters."""
    return purity(text) == 1 and not clean(text, STRICT).removed


def holds_foreign_words(text: str, quoted: frozenset[str] = frozenset()) -> bool:
    """True when there are foreign words, even ones that the filter lets pass because Korean grammar binds them.

    quoted: words of the request in lower case, which an answer may repeat.
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
    first = next(foreign_spans(composed, replace(STRICT, quoted=quoted)), None)
    return None if first is None else first[0]
