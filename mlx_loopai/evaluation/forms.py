"""Checks whether an answer has the form that its question asks for: one word, three items, JSON, a sentence, a text."""

from __future__ import annotations

import json
from collections.abc import Callable

import regex

from mlx_loopai.text.measures import json_shaped, purity

# A name may have two words (ice hockey, 딸기 우유); more is a sentence.
_MOST_WORDS = 2
_LONGEST_ITEM_WORDS = 4
_MIN_PURITY = 0.95
_NUMBERED = regex.compile(r"\s*\d+\s*[.)]\s*\S")
_SENTENCE_END = regex.compile(r"[.!?。！？…]['\"”’」』)]*$")
_BREAKS = regex.compile(r"(?<=[.!?。！？])\s+")
_FENCED = regex.compile(r"^```(?:json)?\s*\n(.*?)\n?```$", regex.S | regex.I)


def holds_form(form: str, text: str) -> bool:
    """Whether `text` has `form`, a key of `EXAMPLES`. The language of the answer is not checked here."""
    return FORMS[form](text.strip())


def _one_word(text: str) -> bool:
    most = 1 if _SENTENCE_END.search(text) else _MOST_WORDS
    return 1 <= len(text.split()) <= most and "," not in text and "\n" not in text


def _three_items(text: str) -> bool:
    items = [item.strip() for item in regex.split(r"[,、，]|\band\b", text.rstrip(".")) if item.strip()]
    return len(items) == 3 and all(len(item.split()) <= _LONGEST_ITEM_WORDS for item in items) and "\n" not in text


def _three_lines(text: str) -> bool:
    return sum(bool(_NUMBERED.match(line)) for line in text.splitlines()) == 3


def _json(text: str) -> bool:
    """An object with a `name`, and nothing around it except a code fence."""
    fenced = _FENCED.match(text)
    try:
        found = json.loads(fenced.group(1) if fenced else text)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and bool(found.get("name"))


def _sentence(text: str) -> bool:
    return not json_shaped(text) and "\n" not in text and len(_BREAKS.split(text)) == 1


def _prose(text: str) -> bool:
    """A short Korean text that ends: what a writer's request should still give."""
    return purity(text) >= _MIN_PURITY and bool(_SENTENCE_END.search(text)) and not json_shaped(text)


FORMS: dict[str, Callable[[str], bool]] = {
    "one_word": _one_word,
    "three_items": _three_items,
    "three_lines": _three_lines,
    "json": _json,
    "sentence": _sentence,
    "prose": _prose,
}
# An empty phrase in each form, which a model could give as an answer to every question.
EXAMPLES = {
    "one_word": "사과",
    "three_items": "사과, 배, 감",
    "three_lines": "1. 사과\n2. 배\n3. 감",
    "json": '{"name": "사과"}',
    "sentence": "사과는 달다.",
    "prose": "사과는 달다.",
}
