"""Turns a row of any common shape into messages, and lists the fields that nothing reads.

The shapes are: a chat (`messages`, or `conversations` with from/value; with parts, tool calls, reasoning and weights);
a request and its answer under their usual names, which may be lists of messages or have earlier turns as `history`; a
plain text; a list of paragraphs with a genre.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mlx_loopai.data.conversation import PICTURE, Kind, Message
from mlx_loopai.data.images import Picture
from mlx_loopai.data.turns import UnreadableError, kind_of, read_text, read_turn
from mlx_loopai.language import tr

REQUEST_NAMES = ("prompt", "instruction", "question", "q")
ANSWER_NAMES = ("completion", "response", "output", "answer", "a")
CHAT_NAMES = ("messages", "conversations", "conversation")
SYSTEM_NAMES = ("system", "system_prompt")
_PICTURE_NAMES = ("images", "image")
_THINKING_NAMES = ("reasoning_content", "reasoning", "thinking")
_KOREAN_GENRES = {
    "fantasy": "판타지", "romance": "로맨스", "mystery": "추리", "thriller": "스릴러", "horror": "공포",
    "sf": "SF", "sci-fi": "SF", "science fiction": "SF", "fairy tale": "동화", "fairytale": "동화",
    "essay": "수필", "historical": "역사", "history": "역사", "adventure": "모험", "comedy": "코미디",
    "drama": "드라마", "martial arts": "무협", "poem": "시", "poetry": "시",
}  # fmt: skip


@dataclass
class _Row:
    """A row's fields by lower-cased name; a field that is asked for counts as used."""

    fields: dict[str, Any]
    used: set[str] = field(default_factory=set)

    def __contains__(self, name: str) -> bool:
        return name in self.fields

    def take(self, name: str) -> Any:
        self.used.add(name)
        return self.fields[name]

    def first(self, names: Sequence[str]) -> str | None:
        return next((name for name in names if name in self.fields), None)


@dataclass(frozen=True)
class Meaning:
    """A row as a conversation. `tools` is JSON text; `unused`: the names of fields that nothing read."""

    messages: tuple[Message, ...]
    kind: Kind
    tools: str
    unused: frozenset[str]


def interpret(values: Any) -> Meaning:
    """The conversation of a row. Raises: UnreadableError with the reason for a row that is not one."""
    if not isinstance(values, Mapping):
        raise UnreadableError(tr("expected an object with named fields, got {kind}", kind=kind_of(values)))
    # Tables have a cell for every column: an absent value is an absent field.
    row = _Row({str(name).strip().lower(): value for name, value in values.items() if value is not None})
    unused: set[str] = set()
    request, answer, chat = row.first(REQUEST_NAMES), row.first(ANSWER_NAMES), row.first(CHAT_NAMES)
    kind: Kind = "chat"
    if chat is not None:
        messages = _chat(row, chat, unused)
    elif isinstance(row.fields.get("text"), list):
        messages = _story(row)
    elif request and answer:
        messages = _pair(row, request, answer, unused)
    elif "text" in row:
        kind, messages = "text", (Message("assistant", read_text(row.take("text"), "text")),)
    else:
        found = ", ".join(map(str, list(values)[:8])) or "none"
        raise UnreadableError(
            tr(
                "unknown shape (fields found: {found}); expected messages, conversations, prompt and completion, "
                "or text",
                found=found,
            )
        )
    messages = _with_pictures(messages, row)
    tools = _tools(row)
    _check_answers(messages, kind)
    unused |= row.fields.keys() - row.used
    return Meaning(messages, kind, tools, frozenset(unused))


def user_text(values: Any) -> str:
    """The user's text in a row of any shape, even one that is not a record; "" without any."""
    if not isinstance(values, Mapping):
        return ""
    try:
        messages: Sequence[Message] = interpret(values).messages
    except UnreadableError:
        found: list[Any] = next((values[name] for name in CHAT_NAMES if isinstance(values.get(name), list)), [])
        messages = [turn for raw in found if (turn := _turn_or_none(raw)) is not None]
        asked = [text for name in (*REQUEST_NAMES, "input") if isinstance(text := values.get(name), str)]
        return "\n".join([*(message.content for message in messages if message.role == "user"), *asked])
    return "\n".join(message.content for message in messages if message.role == "user")


def _turn_or_none(raw: Any) -> Message | None:
    try:
        return read_turn(raw, 1, set())
    except UnreadableError:
        return None


def _check_answers(messages: Sequence[Message], kind: Kind) -> None:
    answers = [message for message in messages if message.role == "assistant"]
    if not answers:
        raise UnreadableError(tr("no assistant turn: there is nothing to learn from this row"))
    if not all(answer.content.strip() or answer.tool_calls for answer in answers if answer.taught):
        raise UnreadableError(tr("empty text") if kind == "text" else tr("empty assistant turn"), empty=True)
    if not any(answer.taught for answer in answers):
        raise UnreadableError(
            tr("no assistant turn is to be learnt: all have the weight 0, or stand before any request")
        )


def _chat(row: _Row, name: str, unused: set[str]) -> tuple[Message, ...]:
    messages = _turns(row.take(name), name, unused)
    return _greeting_as_context(_with_system(row, messages))


def _greeting_as_context(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Answers before the first request become context, which is read and not learnt: nothing asks for them."""
    first = next((at for at, message in enumerate(messages) if message.role == "user"), None)
    if first is None or not any(message.role == "assistant" for message in messages[:first]):
        return messages
    return tuple(
        replace(message, taught=message.taught and not (at < first and message.role == "assistant"))
        for at, message in enumerate(messages)
    )


def _with_pictures(messages: tuple[Message, ...], row: _Row) -> tuple[Message, ...]:
    """The messages with the pictures that the row names; those without a place in a message are shown first."""
    name = row.first(_PICTURE_NAMES)
    given = unpacked(row.take(name)) if name else []
    names = [_picture_name(one) for one in (given if isinstance(given, list) else [given])]
    places = sum(message.content.count(PICTURE) for message in messages)
    if not places and names:
        first = next((at for at, message in enumerate(messages) if message.role == "user"), None)
        if first is None:
            raise UnreadableError(tr("pictures and no request that shows them"))
        shown = replace(messages[first], content=PICTURE * len(names) + messages[first].content)
        messages, places = (*messages[:first], shown, *messages[first + 1 :]), len(names)
    if not places and not names:
        return messages
    if places != len(names):
        raise UnreadableError(
            tr(
                "{places} image parts and {count} pictures in `images`; each part needs one",
                places=places,
                count=len(names),
            )
        )
    if any(PICTURE in message.content for message in messages if message.role != "user"):
        raise UnreadableError(tr("a picture in a turn that is not the user's; pictures are shown in requests"))
    left = iter([Picture(one) for one in names])
    return tuple(
        replace(message, pictures=tuple(next(left) for _ in range(message.content.count(PICTURE))))
        for message in messages
    )


def _picture_name(value: Any) -> str:
    found = value.get("path") if isinstance(value, Mapping) else value
    if not isinstance(found, str) or not found.strip():
        raise UnreadableError(tr("a picture must be the path of a file, got {kind}", kind=kind_of(found)))
    return read_text(found, tr("a picture's path"))


def _turns(raw: Any, name: str, unused: set[str], what: str = "") -> tuple[Message, ...]:
    """The turns of a field. what: its name in errors, if it is not the conversation."""
    turns = unpacked(raw)
    if not isinstance(turns, list):
        what = what or tr("the conversation")
        raise UnreadableError(tr("{what} must be a list of turns, got {kind}", what=what, kind=kind_of(turns)))
    left: set[str] = set()
    messages = tuple(read_turn(turn, number, left) for number, turn in enumerate(turns, start=1))
    unused |= {f"{name}.{key}" for key in left}
    return messages


def unpacked(raw: Any) -> Any:
    """`raw`, parsed if it is JSON text of a list or object, as tables hold them."""
    if isinstance(raw, str) and raw.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(raw)
        except (ValueError, RecursionError):
            return raw
    return raw


def _with_system(row: _Row, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The conversation with the system prompt of another field, unless it has one of its own."""
    name = row.first(SYSTEM_NAMES)
    if name is None:
        return messages
    system = read_text(row.take(name), name)
    if not system.strip() or any(message.role == "system" and message.content == system for message in messages):
        return messages
    if any(message.role == "system" for message in messages):
        raise UnreadableError(tr("{name} and a system turn of another text: keep one of them", name=name))
    return (Message("system", system), *messages)


def _pair(row: _Row, request: str, answer: str, unused: set[str]) -> tuple[Message, ...]:
    asked = _asked(row, request, unused)
    said = _unpacked_list(row.fields[answer])
    if said is not None:
        row.used.add(answer)
        answers = _turns(said, answer, unused, answer)
    else:
        answers = (Message("assistant", read_text(row.take(answer), answer), thinking=_thinking(row)),)
    return _greeting_as_context(_with_system(row, (*_history(row), *asked, *answers)))


def _asked(row: _Row, request: str, unused: set[str]) -> tuple[Message, ...]:
    listed = _unpacked_list(row.fields[request])
    if listed is not None:
        row.used.add(request)
        # Everything in the request is context, including the assistant's earlier answers.
        turns = _turns(listed, request, unused, request)
        return tuple(replace(turn, taught=False) if turn.role == "assistant" else turn for turn in turns)
    text = read_text(row.take(request), request)
    if "input" in row and (more := read_text(row.take("input"), "input")).strip():
        text = f"{text}\n\n{more}" if text.strip() else more
    return (Message("user", text),)


def _unpacked_list(raw: Any) -> list[Any] | None:
    """A list of messages, which may be JSON text; None for a plain text."""
    found = unpacked(raw)
    if isinstance(found, list) and (isinstance(raw, list) or all(isinstance(turn, Mapping) for turn in found)):
        return found
    return None


def _history(row: _Row) -> tuple[Message, ...]:
    """Alpaca's earlier exchanges: pairs of a request and its answer."""
    if "history" not in row:
        return ()
    pairs = unpacked(row.take("history"))
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise UnreadableError(tr("history must be a list of pairs of a request and an answer"))
    texts = [[read_text(text, "history") for text in pair] for pair in pairs]
    return tuple(Message(role, text) for pair in texts for role, text in zip(("user", "assistant"), pair, strict=True))


def _thinking(row: _Row) -> str:
    name = row.first(_THINKING_NAMES)
    return read_text(row.take(name), name).strip() if name else ""


def _tools(row: _Row) -> str:
    if "tools" not in row:
        return ""
    tools = unpacked(row.take("tools"))
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        raise UnreadableError(tr("tools must be a list of functions"))
    return json.dumps(tools, ensure_ascii=False) if tools else ""


def _story(row: _Row) -> tuple[Message, ...]:
    """A request for the genre and the paragraphs as prose: a model that sees the JSON itself learns to write JSON."""
    paragraphs = row.take("text")
    texts = [read_text(text, f"text {number}").strip() for number, text in enumerate(paragraphs, start=1)]
    prose = "\n\n".join(text for text in texts if text)
    metadata = row.take("metadata") if isinstance(row.fields.get("metadata"), Mapping) else {}
    return Message("user", _genre_request(metadata.get("genre"))), Message("assistant", prose)


def _genre_request(genre: Any) -> str:
    names = genre if isinstance(genre, list) else [genre]
    known = [name.strip() for name in names if isinstance(name, str) and name.strip()]
    if not known:
        return "이야기를 한 편 써 주세요."
    korean = ", ".join(_KOREAN_GENRES.get(name.lower(), name) for name in known)
    return f"{korean} 장르의 글을 한 편 써 주세요."
