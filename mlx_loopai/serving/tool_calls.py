"""Finds function calls in a model's text as it is written, and separates them from the rest."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Call:
    """A function that the model wants called. arguments: JSON text."""

    name: str
    arguments: str
    id: str = field(default_factory=lambda: f"call_{uuid.uuid4().hex[:24]}")

    def as_dict(self) -> dict[str, Any]:
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


@dataclass(frozen=True)
class CallForm:
    """How a model writes a call: between two marks, in a form that `parse` reads. tools: the functions as JSON text."""

    start: str
    end: str
    parse: Callable[..., Any]
    tools: str

    @staticmethod
    def of(tokenizer: Any, tools: str) -> CallForm | None:
        """The form of mlx-lm's tokenizer's chat template; None where no form is known, or without tools."""
        if not tools or not tokenizer.has_tool_calling:
            return None
        return CallForm(tokenizer.tool_call_start, tokenizer.tool_call_end, tokenizer.tool_parser, tools)

    def calls(self, body: str) -> list[Call] | None:
        """The calls in the text between two marks; None if it cannot be parsed."""
        try:
            found = self.parse(body, json.loads(self.tools))
            calls = found if isinstance(found, list) else [found]
            return [Call(str(call["name"]), _arguments(call.get("arguments") or {})) for call in calls]
        except Exception:  # parsers may raise anything for a model's text, which then is no call
            return None


def _arguments(given: Mapping[str, Any] | str) -> str:
    return given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)


class CallReader:
    """Divides a text into plain text and calls: `feed` it, then `close`. Without a form all is plain text."""

    def __init__(self, form: CallForm | None) -> None:
        self._form = form
        self._held = ""
        self._in_call = False
        self.called = False

    def feed(self, text: str) -> list[str | Call]:
        """The text and the calls that are certain by now."""
        form = self._form
        if form is None:
            return [text] if text else []
        self._held += text
        found: list[str | Call] = []
        while mark := form.end if self._in_call else form.start:
            before, found_mark, rest = self._held.partition(mark)
            if not found_mark:
                break
            found += self._called(before, mark) if self._in_call else self._said(before)
            self._held, self._in_call = rest, not self._in_call
        if not self._in_call:
            size = len(self._held) - _begun(self._held, form.start)
            found += self._said(self._held[:size])
            self._held = self._held[size:]
        return found

    def close(self) -> list[str | Call]:
        """What was held back; some models write no end mark after a call at the end of the text."""
        held, self._held = self._held, ""
        return self._called(held, "") if self._in_call else [held] if held else []

    def _said(self, text: str) -> list[str | Call]:
        """Plain text; white space after a call is dropped."""
        return [text] if text and (text.strip() or not self.called) else []

    def _called(self, body: str, end: str) -> list[str | Call]:
        assert self._form is not None
        calls = self._form.calls(body)
        if calls is None:
            return [self._form.start + body + end]
        self.called = True
        return [*calls]


def _begun(text: str, mark: str) -> int:
    """How many of the last characters of `text` may be the beginning of `mark`."""
    return next((size for size in range(min(len(text), len(mark) - 1), 0, -1) if mark.startswith(text[-size:])), 0)
