"""Calls of functions in what a model writes, taken out of its text as it comes."""

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
    """How a model writes a call: between two marks, in a form that `parse` reads. tools: JSON text of the functions."""

    start: str
    end: str
    parse: Callable[..., Any]
    tools: str

    @staticmethod
    def of(tokenizer: Any, tools: str) -> CallForm | None:
        """That of the chat template of mlx-lm's tokenizer; None where it has none that is known, and for no tools."""
        if not tools or not tokenizer.has_tool_calling:
            return None
        return CallForm(tokenizer.tool_call_start, tokenizer.tool_call_end, tokenizer.tool_parser, tools)

    def calls(self, body: str) -> list[Call] | None:
        """The calls that stand between two marks; None for what is none."""
        try:
            found = self.parse(body, json.loads(self.tools))
            calls = found if isinstance(found, list) else [found]
            return [Call(str(call["name"]), _arguments(call.get("arguments") or {})) for call in calls]
        except Exception:  # whatever a parser makes of what a model wrote: it is text then
            return None


def _arguments(given: Mapping[str, Any] | str) -> str:
    return given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)


class CallReader:
    """Divides a text into what is said and what is called: `feed` it, then `close`. Without a form all is said."""

    def __init__(self, form: CallForm | None) -> None:
        self._form = form
        self._held = ""
        self._in_call = False
        self.called = False

    def feed(self, text: str) -> list[str | Call]:
        """What is certain by now."""
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
        """What was held back; some models end a call with the text alone."""
        held, self._held = self._held, ""
        return self._called(held, "") if self._in_call else [held] if held else []

    def _said(self, text: str) -> list[str | Call]:
        """Text beside calls. White space after a call says nothing."""
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
