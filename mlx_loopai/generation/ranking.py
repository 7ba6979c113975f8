"""Ranks several answers to one prompt by what can be counted: loops, purity, completeness, variety, length."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_loopai.text.measures import is_looping, purity, rep_n

_REPEAT_GRAM = 8


@dataclass(frozen=True, order=True)
class Rank:
    """The criteria by which an answer is ranked, the most important first; more is better."""

    does_not_loop: bool
    purity: float  # rounded: less than a hundredth does not count as a difference
    finished: bool
    variety: float  # 1 - repeated 8-grams of characters, rounded
    length: int  # characters


def rank(text: str, finished: bool) -> Rank:
    """The rank of one answer; an empty one loses to any other."""
    return Rank(
        does_not_loop=bool(text.strip()) and not is_looping(text),
        purity=round(purity(text), 2),
        finished=finished,
        variety=round(1 - rep_n(text, _REPEAT_GRAM), 2),
        length=len(text),
    )
