"""Saves and loads a conversation: one row that training reads too, and its pictures in a folder beside it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from mlx_loopai.data.conversation import PICTURE, pictures_in
from mlx_loopai.data.formats import read_rows
from mlx_loopai.data.images import Picture, picture_in
from mlx_loopai.data.records import Message
from mlx_loopai.errors import InputError
from mlx_loopai.files import whole_file, write_whole
from mlx_loopai.language import tr

_NAME_DIGITS = 16


@dataclass(frozen=True)
class Conversation:
    """Requests and their answers in turns, and the system prompt above them ("" for none)."""

    system: str = ""
    turns: tuple[Message, ...] = ()

    @property
    def exchanges(self) -> int:
        return len(self.turns) // 2

    def messages(self, skip: int = 0) -> tuple[Message, ...]:
        """What the model reads, without the first `skip` exchanges."""
        system = (Message("system", self.system),) if self.system else ()
        return (*system, *self.turns[2 * skip :])

    def with_turn(self, role: str, text: str, whole: bool = True) -> Conversation:
        """With one turn more. whole: False for an answer that was stopped or cut; training does not learn it then."""
        return self.with_message(Message(role, text, taught=whole))

    def with_message(self, message: Message) -> Conversation:
        """With one turn more."""
        return replace(self, turns=(*self.turns, message))

    def undone(self) -> Conversation:
        """Without the last exchange."""
        return replace(self, turns=self.turns[:-2])

    def edited(self, text: str) -> Conversation:
        """The conversation with `text`, written by hand, as its last answer; that answer counts as finished."""
        return replace(self, turns=self.turns[:-1]).with_turn("assistant", text)

    def save(self, path: Path) -> None:
        """Write it as one row that training reads too; an answer that is not whole gets the weight 0.

        Raises: InputError when the file holds anything else; OSError when it cannot be written.
        """
        if not self.turns:
            raise InputError(tr("there is nothing to save yet"))
        if path.exists():
            Conversation.load(path)
        self.keep(path)

    def keep(self, path: Path) -> None:
        """Write the row of `save` over whatever is there, its pictures in a folder beside it. Raises: as `save`."""
        folder = path.with_suffix(".images")
        named = {_file_name(picture): picture for picture in pictures_in(self.turns)}
        for name, picture in named.items():
            folder.mkdir(mode=0o700, exist_ok=True)
            if not (folder / name).is_file():
                with whole_file(folder / name) as temporary:
                    temporary.write_bytes(picture.content)
        row: dict[str, Any] = {"messages": [_as_row(message) for message in self.messages()]}
        if named:
            row["images"] = [f"{folder.name}/{_file_name(picture)}" for picture in pictures_in(self.turns)]
        write_whole(path, json.dumps(row, ensure_ascii=False) + "\n")

    def markdown(self) -> str:
        """The conversation to read: each request as a heading, its answer below."""
        parts = [f"> {self.system}\n"] if self.system else []
        for asked, answer in zip(self.turns[::2], self.turns[1::2], strict=True):
            heading = " ".join(asked.shown.split())
            # A request of several paragraphs is no heading.
            parts.append(f"## {heading}\n" if heading == asked.shown.strip() else f"{_quoted(asked.shown)}\n")
            parts.append(f"{answer.content.strip()}\n")
        return "\n".join(parts)

    @classmethod
    def load(cls, path: Path) -> Conversation:
        """The conversation that `save` wrote. Raises: InputError when the file holds something else."""
        rows, problems = read_rows(path)
        messages = _messages(rows[0].values, path.parent) if len(rows) == 1 and not problems else []
        system = messages[0].content if messages and messages[0].role == "system" else ""
        turns = tuple(messages[1:] if system else messages)
        roles = [message.role for message in turns]
        if not turns or roles != ["user", "assistant"] * (len(turns) // 2):
            raise InputError(
                tr("{path}: not a saved chat: one row with turns of user and assistant; name another file", path=path)
            )
        return cls(system, turns)


def _messages(values: Any, folder: Path) -> list[Message]:
    """The turns of a row that `save` wrote into `folder`; none for any other. Raises: InputError for a lost picture."""
    turns = values.get("messages") if isinstance(values, dict) else None
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        return []
    texts = [_text_of(turn.get("content")) for turn in turns]
    named = values.get("images", [])
    if None in texts or not all(isinstance(turn.get("role"), str) for turn in turns):
        return []
    count = sum(text.count(PICTURE) for text in texts if text)
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named) or len(named) != count:
        return []
    pictures = iter([picture_in(folder, name) for name in named])
    return [
        Message(
            turn["role"],
            text,
            taught=turn.get("weight") != 0,
            pictures=tuple(islice(pictures, text.count(PICTURE))),
        )
        for turn, text in zip(turns, texts, strict=True)
        if text is not None
    ]


def _text_of(content: Any) -> str | None:
    """A turn's text, with `PICTURE` for each picture before it; None for anything that `save` does not write."""
    if isinstance(content, str):
        return content.replace(PICTURE, "")
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        return None
    *images, last = content or [{}]
    if any(part != {"type": "image"} for part in images) or not isinstance(last.get("text"), str):
        return None
    return PICTURE * len(images) + str(last["text"]).replace(PICTURE, "")


def _as_row(message: Message) -> dict[str, Any]:
    if not message.pictures:
        return message.as_row()
    text = message.content.replace(PICTURE, "")
    images = [{"type": "image"}] * len(message.pictures)
    return {"role": message.role, "content": [*images, {"type": "text", "text": text}]}


def _file_name(picture: Picture) -> str:
    """Named by its bytes, so that a picture that is shown twice is kept once."""
    return f"{picture.digest[:_NAME_DIGITS]}{Path(picture.name).suffix.lower()}"


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.strip().split("\n"))
