"""The types of training data: a message, and a record, which is a row of one or more messages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mlx_loopai.data.images import Picture
from mlx_loopai.errors import InputError
from mlx_loopai.language import tr

Kind = Literal["chat", "text"]

# Marks a picture's place in a message's text. Plane 16 is private use, so text written for people does not hold it.
PICTURE = "\U00100000"

# The first bytes of planes 15 and 16, which are for private use, in UTF-8.
_PRIVATE_STARTS = b"\xf3", b"\xf4"

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class Message:
    """One turn. `role` is one of ROLES.

    taught: whether training learns an answer; otherwise it is context. thinking: the reasoning before an answer.
    tool_calls: JSON text of an answer's calls, each {"name", "arguments"}. name: the function whose result a tool's
    turn holds. pictures: one for each `PICTURE` in the content, in order.
    """

    role: str
    content: str
    taught: bool = True
    thinking: str = ""
    tool_calls: str = ""
    name: str = ""
    pictures: tuple[Picture, ...] = ()

    @property
    def is_bare(self) -> bool:
        """Whether it is a text and nothing else, which is learnt where it is an answer."""
        return self.taught and not (self.thinking or self.tool_calls or self.name or self.pictures)

    @property
    def shown(self) -> str:
        """Its text for a person, with the name of each picture in brackets where it stands."""
        first, *rest = self.content.split(PICTURE)
        named = zip(self.pictures, rest, strict=True)
        return first + "".join(f"[{Path(picture.name).name}] {text}" for picture, text in named)

    def as_turn(self) -> dict[str, Any]:
        """The turn as a chat template reads it: without `taught`."""
        row: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.thinking:
            row["reasoning_content"] = self.thinking
        if self.tool_calls:
            row["tool_calls"] = [{"type": "function", "function": call} for call in json.loads(self.tool_calls)]
        if self.name:
            row["name"] = self.name
        return row

    def as_row(self) -> dict[str, Any]:
        """The turn as a row of `messages` holds it; reading it gives an equal turn.

        Raises: InputError for a turn with pictures: their paths belong to the file that they were read from.
        """
        if self.pictures:
            raise InputError(
                tr(
                    "{picture}: a turn with pictures is not copied into another file, since the pictures would not be"
                    " next to it; keep the row in its own file",
                    picture=self.pictures[0].name,
                )
            )
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


def may_be_private(text: str) -> bool:
    """Whether `text` may hold a character for private use; much faster than looking for one."""
    content = text.encode("utf-8", "surrogatepass")
    return any(start in content for start in _PRIVATE_STARTS)


def showing(text: str, pictures: Sequence[Picture], role: str = "user") -> Message:
    """A turn that shows `pictures` before its text; any `PICTURE` in the text itself is removed."""
    return Message(role, PICTURE * len(pictures) + text.replace(PICTURE, ""), pictures=tuple(pictures))


def pictures_in(messages: Sequence[Message]) -> tuple[Picture, ...]:
    """Every picture of a conversation, in order."""
    return tuple(picture for message in messages for picture in message.pictures)
