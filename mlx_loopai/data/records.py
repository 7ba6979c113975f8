"""Records: what a row of a training file means, whatever shape the file has.

Four shapes are read: a chat (`messages`, or `conversations` with from/value), a request and its answer under
their usual names, a plain text, and a list of paragraphs with a genre.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mlx_loopai.data.formats import Problem, read_rows
from mlx_loopai.errors import InputError, all_problems

Kind = Literal["chat", "text"]

ROLES = ("system", "user", "assistant")
REQUEST_NAMES = ("prompt", "instruction", "question", "q")
ANSWER_NAMES = ("completion", "response", "output", "answer", "a")

_CONVERSATION_ROLES = {"human": "user", "gpt": "assistant", **{role: role for role in ROLES}}
_KOREAN_GENRES = {
    "fantasy": "판타지", "romance": "로맨스", "mystery": "추리", "thriller": "스릴러", "horror": "공포",
    "sf": "SF", "sci-fi": "SF", "science fiction": "SF", "fairy tale": "동화", "fairytale": "동화",
    "essay": "수필", "historical": "역사", "history": "역사", "adventure": "모험", "comedy": "코미디",
    "drama": "드라마", "martial arts": "무협", "poem": "시", "poetry": "시",
}  # fmt: skip


@dataclass(frozen=True)
class Message:
    """One turn. `role` is one of ROLES."""

    role: str
    content: str


@dataclass(frozen=True)
class Record:
    """One row of data. A "text" record holds its text as a single assistant message."""

    messages: tuple[Message, ...]
    kind: Kind
    category: str
    origin: str  # "file:line", for messages about this row


class _UnreadableError(Exception):
    """Why a row is no record."""


def read_records(path: Path, category: str = "domain") -> list[Record]:
    """The records of a JSONL, JSON, CSV or Parquet file, in the file's order.

    Raises: InputError with every problem of the file (at most 10 listed), each with file:line.
    """
    path = Path(path)
    rows, problems = read_rows(path)
    records: list[Record] = []
    for row in rows:
        try:
            messages, kind = _interpret(row.values)
            records.append(Record(messages, kind, category, f"{path}:{row.line}"))
        except _UnreadableError as reason:
            problems.append(Problem(row.line, str(reason)))
    if problems:
        problems.sort(key=lambda problem: problem.line)
        raise InputError(all_problems(f"{path}:{problem.line}: {problem.reason}" for problem in problems))
    if not records:
        raise InputError(f"{path}: holds no rows; give a file with at least one")
    return records


def user_text(values: Any) -> str:
    """What the user says in a row of any shape, also one that is no record; "" where nobody does."""
    if not isinstance(values, Mapping):
        return ""
    turns = values.get("messages", values.get("conversations"))
    turns = [turn for turn in turns if isinstance(turn, Mapping)] if isinstance(turns, list) else []
    asked = [turn.get("content", turn.get("value")) for turn in turns if _is_user(turn.get("role", turn.get("from")))]
    asked += [values.get(name) for name in (*REQUEST_NAMES, "input")]
    return "\n".join(text for text in asked if isinstance(text, str))


def _is_user(role: Any) -> bool:
    return isinstance(role, str) and _CONVERSATION_ROLES.get(role) == "user"


def _interpret(values: Any) -> tuple[tuple[Message, ...], Kind]:
    if not isinstance(values, Mapping):
        raise _UnreadableError(f"expected an object with named fields, got {_type(values)}")
    # Tables have a cell for every column: an absent value is an absent field.
    fields = {str(name).strip().lower(): value for name, value in values.items() if value is not None}
    request, answer = _first(fields, REQUEST_NAMES), _first(fields, ANSWER_NAMES)
    kind: Kind = "chat"
    if "messages" in fields:
        messages = _chat(fields["messages"])
    elif "conversations" in fields:
        messages = _chat(fields["conversations"])
    elif isinstance(fields.get("text"), list):
        messages = _story(fields["text"], fields.get("metadata"))
    elif request and answer:
        messages = _pair(fields, request, answer)
    elif "text" in fields:
        kind, messages = "text", (Message("assistant", _text(fields["text"], "text")),)
    else:
        raise _UnreadableError(_unknown_shape(list(values)))
    _check_answers(messages, kind)
    return messages, kind


def _unknown_shape(names: Sequence[Any]) -> str:
    found = ", ".join(map(str, names[:8])) or "none"
    return f"unknown shape (fields found: {found}); expected messages, conversations, prompt and completion, or text"


def _check_answers(messages: Sequence[Message], kind: Kind) -> None:
    answers = [message.content for message in messages if message.role == "assistant"]
    if not answers:
        raise _UnreadableError("no assistant turn: there is nothing to learn from this row")
    if not all(answer.strip() for answer in answers):
        raise _UnreadableError("empty text" if kind == "text" else "empty assistant turn")


def _chat(turns: Any) -> tuple[Message, ...]:
    if not isinstance(turns, list):
        raise _UnreadableError(f"the conversation must be a list of turns, got {_type(turns)}")
    return tuple(_turn(turn, number) for number, turn in enumerate(turns, start=1))


def _turn(turn: Any, number: int) -> Message:
    if not isinstance(turn, Mapping):
        raise _UnreadableError(f"turn {number} must be an object with role and content, got {_type(turn)}")
    role, content, names = ("role", "content", {role: role for role in ROLES})
    if "role" not in turn and "from" in turn:
        role, content, names = ("from", "value", _CONVERSATION_ROLES)
    found = turn.get(role)
    if not isinstance(found, str) or found not in names:
        raise _UnreadableError(f"turn {number} has the wrong role {found!r}; expected one of {', '.join(names)}")
    return Message(names[found], _text(turn.get(content), f"turn {number}'s {content}"))


def _pair(fields: Mapping[str, Any], request: str, answer: str) -> tuple[Message, ...]:
    asked = _text(fields[request], request)
    if "input" in fields and (more := _text(fields["input"], "input")).strip():
        asked = f"{asked}\n\n{more}" if asked.strip() else more
    turns = (Message("user", asked), Message("assistant", _text(fields[answer], answer)))
    system = _text(fields.get("system", ""), "system")
    return (Message("system", system), *turns) if system.strip() else turns


def _story(paragraphs: Sequence[Any], metadata: Any) -> tuple[Message, ...]:
    """A request for the genre and the paragraphs as prose: a model that sees the JSON itself learns to write JSON."""
    texts = [_text(paragraph, f"text {number}").strip() for number, paragraph in enumerate(paragraphs, start=1)]
    prose = "\n\n".join(text for text in texts if text)
    genre = metadata.get("genre") if isinstance(metadata, Mapping) else None
    return Message("user", _genre_request(genre)), Message("assistant", prose)


def _genre_request(genre: Any) -> str:
    names = genre if isinstance(genre, list) else [genre]
    known = [name.strip() for name in names if isinstance(name, str) and name.strip()]
    if not known:
        return "이야기를 한 편 써 주세요."
    korean = ", ".join(_KOREAN_GENRES.get(name.lower(), name) for name in known)
    return f"{korean} 장르의 글을 한 편 써 주세요."


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise _UnreadableError(f"{name} must be text, got {_type(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _UnreadableError(f"{name} holds half of a surrogate pair, which is no character") from None
    return value


def _first(fields: Mapping[str, Any], names: Sequence[str]) -> str | None:
    return next((name for name in names if name in fields), None)


def _type(value: Any) -> str:
    names = {str: "text", list: "a list", dict: "an object", bool: "true/false", int: "a number", float: "a number"}
    return "nothing" if value is None else names.get(type(value), type(value).__name__)
