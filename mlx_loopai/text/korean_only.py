"""Tells whether a text is Korean and nothing else, and which words of it are foreign, by the strictest rules."""

from __future__ import annotations

from dataclasses import replace

from mlx_loopai.text.filter import clean
from mlx_loopai.text.hangul import nfc
from mlx_loopai.text.measures import purity
from mlx_loopai.text.policy import Policy
from mlx_loopai.text.words import foreign_words

# Hanja in brackets count too. Names in capitals and units do not.
STRICT = Policy(latin="acronyms", han="drop")


def is_korean_only(text: str) -> bool:
    """True when all letters are Hangul and the filter finds nothing to remove; False for a text without letters."""
    return purity(text) == 1 and not clean(text, STRICT).removed


def holds_foreign_words(text: str, quoted: frozenset[str] = frozenset()) -> bool:
    """True when there are foreign words, even ones that the filter lets pass because Korean grammar binds them.

    quoted: words of the request in lower case, which an answer may repeat.
    """
    return bool(foreign_words(nfc(text), replace(STRICT, quoted=quoted)))
