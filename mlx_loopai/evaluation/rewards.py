"""Says how good an answer is by what a program can check in it: the reward of a run that answers prompts itself."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import regex

from mlx_loopai.config import PreferenceOptions
from mlx_loopai.data.unanswered import Wishes
from mlx_loopai.evaluation.ranked_pairs import Merit
from mlx_loopai.text.hangul import nfc

# What begins a line of a list: a number or letter with a point or bracket, or a bullet.
_MARK = regex.compile(r"\s*(?:\(?\d+[.)]|[-*•·–])\s+\S")
# A text of a genre has words of others, too; with this share of its own it is one.
_OF_THE_GENRE = 0.5
# Sums of shares that should be 1 may miss it by rounding.
_NEARLY = 1e-9


@dataclass(frozen=True)
class Reward:
    """How good an answer is.

    measures: the name of each option of `preference.reward` that was checked, with how well the answer does, from 0 to
    1. value: their weighted mean.
    """

    value: float
    measures: dict[str, float]

    @property
    def is_faultless(self) -> bool:
        """Whether nothing that was checked is wrong."""
        return self.value > 1 - _NEARLY


def reward_of(text: str, finished: bool, wishes: Wishes, options: PreferenceOptions) -> Reward:
    """The reward of an answer to a prompt with these wishes.

    finished: whether the model ended it itself. An empty answer has none of what is checked. What nobody asks for is
    not checked: Korean letters where the prompt is not Korean, a genre, words or a form where the prompt names none.
    """
    merit = Merit.of(text, finished, wishes.length or options.length, wishes.genre)
    says_something = bool(text.strip())
    found = {
        "loop": merit.does_not_loop,
        "whole": merit.is_whole,
        "purity": merit.purity if wishes.korean else None,
        "length": merit.in_range,
        "end": merit.finished,
        "genre": min(1.0, merit.genre_fit / _OF_THE_GENRE) if wishes.genre else None,
        "words": _share_of_words(text, wishes.words) if wishes.words else None,
        "format": _formed(text, wishes) if wishes.format else None,
        "variety": merit.variety,
    }
    weights = options.reward.model_dump()
    measures = {
        name: float(value) if says_something else 0.0
        for name, value in found.items()
        if value is not None and weights[name] > 0
    }
    total = sum(weights[name] for name in measures)
    return Reward(sum(weights[name] * value for name, value in measures.items()) / total, measures)


def _share_of_words(text: str, words: tuple[str, ...]) -> float:
    """Share of `words` that occur, whatever their case; Korean words may have endings."""
    said = nfc(text).casefold()
    return sum(nfc(word).casefold() in said for word in words) / len(words)


def _formed(text: str, wishes: Wishes) -> float:
    """1 for the form that is wished, with as many items; 1/2 for the form alone; else 0."""
    items = _json_items(text) if wishes.format == "json" else _list_items(text)
    if items is None:
        return 0.0
    return 1.0 if wishes.items in (None, items) else 0.5


def _json_items(text: str) -> int | None:
    """The items of a JSON list or the names of a JSON object; None for any other text."""
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return len(found) if isinstance(found, list | dict) else None


def _list_items(text: str) -> int | None:
    """The lines of a list; None where a line has no mark."""
    lines = [line for line in text.splitlines() if line.strip()]
    return len(lines) if lines and all(_MARK.match(line) for line in lines) else None
