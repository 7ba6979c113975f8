"""What may stay in Korean text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Policy:
    """What may stay in Korean text. A run of foreign text that the Korean sentence holds stays whole (`binding`).

    latin: `prose` drops runs that are sentences or phrases of a Latin-script language (`prose.is_prose`) and keeps
        names and terms; `acronyms` drops every run with a lower-case word of three letters and more but units; `keep`
        leaves all Latin words.
    han: `gloss` keeps Hanja in brackets right after Hangul, `keep` all of it, `drop` none, bound or not. Under `gloss`
        and `keep` Latin words stay in such brackets too: 함수(function).
    emoji: `drop` or `keep`.
    quoted: Latin words, in lower case, that stay because the prompt holds them (`words.quoted_words`).
    max_removed_share: above this share of the visible characters a cleaned text is called damaged, not mended.
    """

    latin: Literal["prose", "acronyms", "keep"] = "prose"
    han: Literal["gloss", "keep", "drop"] = "gloss"
    emoji: Literal["drop", "keep"] = "drop"
    quoted: frozenset[str] = frozenset()
    max_removed_share: float = 0.3


DEFAULT_POLICY = Policy()
# For measuring: every foreign word counts, also one that a reader may let pass.
STRICT_POLICY = Policy(latin="acronyms")
