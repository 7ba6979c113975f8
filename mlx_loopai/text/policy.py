"""The policy of the text filter: what may stay in Korean text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Policy:
    """What may stay in Korean text. A run of foreign text that Korean grammar binds stays whole (`binding`).

    latin: `prose` drops runs that are sentences or phrases of a Latin-script language (`prose.is_prose`) and keeps
        names and terms; `acronyms` drops every run with a lower-case word of three letters or more, except units;
        `keep` leaves all Latin words.
    han: `gloss` keeps Hanja in brackets right after Hangul, `keep` keeps all of it, `drop` none, bound or not. With
        `gloss` and `keep`, Latin words in such brackets stay too: 함수(function).
    emoji: `drop` or `keep`.
    quoted: Latin words, in lower case, that stay because the prompt holds them (`words.quoted_words`).
    max_removed_share: a text of which more than this share of visible characters was removed counts as damaged.
    """

    latin: Literal["prose", "acronyms", "keep"] = "prose"
    han: Literal["gloss", "keep", "drop"] = "gloss"
    emoji: Literal["drop", "keep"] = "drop"
    quoted: frozenset[str] = frozenset()
    max_removed_share: float = 0.3


DEFAULT_POLICY = Policy()
# For measuring: every foreign word counts, even one that a reader would accept.
STRICT_POLICY = Policy(latin="acronyms")
