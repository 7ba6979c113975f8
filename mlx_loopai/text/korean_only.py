"""Proves by the filter that a text is Korean and nothing else, or that it holds foreign words."""

from __future__ import annotations

from dataclasses import replace

from mlx_loopai.text.filter import clean
from mlx_loopai.text.measures import purity
from mlx_loopai.text.policy import Policy

# The strictest: Hanja in brackets and names in Latin letters count too.
STRICT = Policy(latin="acronyms", han="drop")


def is_korean_only(text: str) -> bool:
    """True when all letters are Hangul and the filter finds nothing to remove; False for a text without letters."""
    return purity(text) == 1 and not clean(text, STRICT).removed


def holds_foreign_words(text: str, quoted: frozenset[str] = frozenset()) -> bool:
    """True when the filter finds foreign words. quoted: words of the request, which an answer may repeat."""
    return "foreign" in clean(text, replace(STRICT, quoted=quoted)).removed
