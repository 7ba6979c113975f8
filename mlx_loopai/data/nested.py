"""Takes the natural text out of answers that are nested JSON.

A model that is trained on JSON answers soon answers everything in JSON: it learns the shape before anything else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mlx_loopai.data.records import Record

_TEXT_NAMES = ("text", "content", "story", "story_text", "body", "paragraphs", "sentences", "dialogue", "turns")
_SPEAKER_NAMES = ("speaker", "name", "role", "character")
_FENCE = "```"


def natural_answer(content: str) -> str | None:
    """The prose or dialogue inside a JSON answer: paragraphs with a blank line between, or `speaker: line` lines.

    None when the answer is not JSON, or holds no such text: a person must decide about such a row.
    """
    try:
        values = json.loads(_unfenced(content))
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict | list):
        return None
    parts = _parts(values)
    return "\n\n".join(parts) if parts else None


def natural_record(record: Record) -> tuple[Record, int]:
    """The record with every JSON answer turned into natural text, and how many answers that were."""
    messages, changed = [], 0
    for message in record.messages:
        found = natural_answer(message.content) if message.role == "assistant" else None
        messages.append(message if found is None else replace(message, content=found))
        changed += found is not None
    return replace(record, messages=tuple(messages)), changed


def _unfenced(content: str) -> str:
    text = content.strip()
    if text.startswith(_FENCE) and text.endswith(_FENCE):
        first, _, rest = text.partition("\n")
        return rest[: -len(_FENCE)] if first.strip("`").strip().lower() in ("", "json") else text
    return text


def _parts(values: Any) -> list[str]:
    """Paragraphs of a text, of a list of texts, or of the first field that is known to hold some."""
    if isinstance(values, str):
        return [values.strip()] if values.strip() else []
    if isinstance(values, list):
        if values and all(_is_turn(value) for value in values):
            return ["\n".join(_turn(value) for value in values)]
        return [part for value in values for part in _parts(value)]
    if isinstance(values, Mapping):
        named = {str(name).lower(): value for name, value in values.items()}
        return next((parts for name in _TEXT_NAMES if (parts := _parts(named.get(name)))), [])
    return []


def _is_turn(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(_speaker(value)) and bool(_parts(value))


def _turn(value: Mapping[str, Any]) -> str:
    return f"{_speaker(value)}: {' '.join(_parts(value))}"


def _speaker(value: Mapping[str, Any]) -> str:
    return next((str(value[name]).strip() for name in _SPEAKER_NAMES if isinstance(value.get(name), str)), "")
