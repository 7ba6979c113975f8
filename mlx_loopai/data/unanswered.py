"""Reads prompts to which the model itself writes the answers, with what is wished of an answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from mlx_loopai.data.conversation import Message, Record
from mlx_loopai.data.shapes import ANSWER_NAMES, CHAT_NAMES, REQUEST_NAMES, SYSTEM_NAMES, Meaning, interpret, unpacked
from mlx_loopai.data.turns import UnreadableError, is_answer, kind_of
from mlx_loopai.language import tr
from mlx_loopai.text.measures import purity
from mlx_loopai.text.style import GENRE_WORDS, genre_named

AnswerFormat = Literal["json", "list"]

_LENGTH, _WORDS, _FORMAT, _ITEMS, _GENRE = "length", "words", "format", "items", "genre"
_WISHES = (_LENGTH, _WORDS, _FORMAT, _ITEMS, _GENRE)
_FORMATS: tuple[str, ...] = get_args(AnswerFormat)
# Rows that have these fields alone, and no answer, are prompts. With any other field an answer may be hidden in it.
_KNOWN = frozenset((*REQUEST_NAMES, *SYSTEM_NAMES, *_WISHES, "input", "history", "tools", "id"))
# Stands for the answer while a row is read as a conversation, and is taken out again.
_ANSWER = "."
_MOSTLY = 0.5


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What is wished of an answer, as far as a program can check it.

    length: fewest and most characters; None: as the run says. words: each is to occur. format: `json`, one JSON value
    and nothing else; `list`, a mark or a number before every line. items: how many the list or JSON value has. genre: a
    name of `GENRE_WORDS`. korean: whether the request is Korean, so that the answer should be.
    """

    length: tuple[int, int] | None = None
    words: tuple[str, ...] = ()
    format: AnswerFormat | None = None
    items: int | None = None
    genre: str | None = None
    korean: bool = False


@dataclass(frozen=True)
class Unanswered:
    """A prompt without an answer. prompt: a record that ends with the request."""

    prompt: Record
    wishes: Wishes

    @property
    def origin(self) -> str:
        """file:line of the row."""
        return self.prompt.origin

    @property
    def better(self) -> None:
        """The answer that may be learnt as an ordinary one: there is none."""

    def as_row(self) -> dict[str, Any]:
        """The prompt as a row of a file; reads back as it is."""
        wishes = self.wishes
        row: dict[str, Any] = {"prompt": [message.as_turn() for message in self.prompt.messages]}
        given = {
            _LENGTH: None if wishes.length is None else list(wishes.length),
            _WORDS: list(wishes.words) or None,
            _FORMAT: wishes.format,
            _ITEMS: wishes.items,
            _GENRE: wishes.genre,
            "tools": json.loads(self.prompt.tools) if self.prompt.tools else None,
        }
        return row | {name: value for name, value in given.items() if value is not None}


def is_unanswered(row: Mapping[str, Any]) -> bool:
    """Whether a row with these fields, by lower-cased name, is a prompt without an answer."""
    return row.keys() <= _KNOWN and any(name in row for name in REQUEST_NAMES)


def read_unanswered(row: Mapping[str, Any]) -> tuple[Meaning, Wishes]:
    """(the conversation that ends with the request, what is wished of its answer).

    row: its fields by lower-cased name. An answer in it is not used. Raises: UnreadableError saying what is wrong.
    """
    rest = {name: value for name, value in row.items() if name not in _WISHES}
    answered, whole = _with_stand_in(rest)
    meaning = interpret(whole)
    messages = meaning.messages[:-1]
    if not messages or messages[-1].role != "user" or not messages[-1].content.strip():
        raise UnreadableError(tr("a prompt ends with a request, which the model answers; this row has none"))
    if any(message.pictures for message in messages):
        raise UnreadableError(tr("a prompt with pictures: only prompts of text are answered while a run trains"))
    return Meaning(messages, meaning.kind, meaning.tools, meaning.unused | answered), _wishes(row, messages)


def _with_stand_in(row: Mapping[str, Any]) -> tuple[frozenset[str], dict[str, Any]]:
    """(the names of fields that hold an answer, the row with a stand-in for it)."""
    chat = next((name for name in CHAT_NAMES if name in row), None)
    if chat is None:
        if not any(name in row for name in REQUEST_NAMES):
            raise UnreadableError(tr("no prompt: expected `prompt`, or a list of `messages` (kind: prompts)"))
        answers = frozenset(name for name in ANSWER_NAMES if name in row)
        kept = {name: value for name, value in row.items() if name not in answers}
        return answers, kept | {ANSWER_NAMES[0]: _ANSWER}
    turns = unpacked(row[chat])
    if not isinstance(turns, list):
        raise UnreadableError(tr("{chat} must be a list of turns, got {kind}", chat=chat, kind=kind_of(turns)))
    answered = bool(turns) and is_answer(turns[-1])
    asked = turns[:-1] if answered else turns
    unused = frozenset([f"{chat}[-1]"] if answered else [])
    return unused, {**row, chat: [*asked, {"role": "assistant", "content": _ANSWER}]}


def _wishes(row: Mapping[str, Any], messages: tuple[Message, ...]) -> Wishes:
    request = messages[-1].content
    items, form = _items(row.get(_ITEMS)), _format(row.get(_FORMAT))
    return Wishes(
        length=_length(row.get(_LENGTH)),
        words=_words(row.get(_WORDS)),
        format="list" if form is None and items is not None else form,
        items=items,
        genre=_genre(row[_GENRE]) if _GENRE in row else genre_named(request),
        korean=purity(request) > _MOSTLY,
    )


def _length(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    given = unpacked(value)
    parts = given.split(":") if isinstance(given, str) else given
    found = [_count(part) for part in parts] if isinstance(parts, list) else []
    if len(found) == 2 and found[0] is not None and found[1] is not None and found[0] <= found[1]:
        return found[0], found[1]
    raise UnreadableError(tr("length {value!r}: expected fewest and most characters, such as [60, 240]", value=value))


def _words(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    given = unpacked(value)
    words = [given] if isinstance(given, str) else given
    if not isinstance(words, list) or not all(isinstance(word, str) and word.strip() for word in words):
        raise UnreadableError(tr("words must be a list of words that the answer is to hold"))
    return tuple(word.strip() for word in words)


def _format(value: Any) -> AnswerFormat | None:
    if value is None:
        return None
    if value not in _FORMATS:
        raise UnreadableError(tr("format {value!r} is unknown; known: {known}", value=value, known=", ".join(_FORMATS)))
    return cast(AnswerFormat, value)


def _items(value: Any) -> int | None:
    if value is None:
        return None
    found = _count(value)
    if not found:
        raise UnreadableError(tr("items {value!r}: expected how many, at least 1", value=value))
    return found


def _genre(value: Any) -> str:
    if value not in GENRE_WORDS:
        known = ", ".join(GENRE_WORDS)
        raise UnreadableError(tr("genre {value!r} is unknown; known: {known}", value=value, known=known))
    return str(value)


def _count(value: Any) -> int | None:
    """A whole number of at least 0, which tables hold as text; None for anything else."""
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
