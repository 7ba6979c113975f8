"""Messages and records: what everything that reads, checks or encodes training data speaks of."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["chat", "text"]

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class Message:
    """One turn. `role` is one of ROLES.

    taught: whether an answer is learnt; otherwise it is context. thinking: what an answer thought before it was given.
    tool_calls: JSON text of an answer's calls, each {"name", "arguments"}. name: the function whose result a tool's
    turn brings.
    """

    role: str
    content: str
    taught: bool = True
    thinking: str = ""
    tool_calls: str = ""
    name: str = ""

    def as_turn(self) -> dict[str, Any]:
        """The turn as a chat template reads it: what was said, not whether it teaches."""
        row: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.thinking:
            row["reasoning_content"] = self.thinking
        if self.tool_calls:
            row["tool_calls"] = [{"type": "function", "function": call} for call in json.loads(self.tool_calls)]
        if self.name:
            row["name"] = self.name
        return row

    def as_row(self) -> dict[str, Any]:
        """The turn as a row of `messages` holds it; reads back as it is."""
        return self.as_turn() | ({"weight": 0} if self.role == "assistant" and not self.taught else {})


@dataclass(frozen=True)
class Record:
    """One row of data. A "text" record holds its text as a single assistant message.

    origin: "file:line", for messages about this row. tools: JSON text of the functions that the model may call.
    allow_special: whether a control token's name in the row's text, such as `<|im_end|>`, is that token; otherwise it
    is text like any other.
    """

    messages: tuple[Message, ...]
    kind: Kind
    category: str
    origin: str
    tools: str = ""
    allow_special: bool = False

    def as_row(self) -> dict[str, Any]:
        """The record as a row of a file; reads back as it is."""
        if self.kind == "text":
            return {"text": self.messages[0].content}
        row: dict[str, Any] = {"messages": [message.as_row() for message in self.messages]}
        return row | ({"tools": json.loads(self.tools)} if self.tools else {})
