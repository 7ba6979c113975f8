"""Reads prompts and few-shot examples, and puts them together as the messages that the model continues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_loopai.data.conversation import PICTURE, showing
from mlx_loopai.data.formats import read_rows
from mlx_loopai.data.images import Picture
from mlx_loopai.data.records import ROLES, Message, Record, read_records
from mlx_loopai.data.texts import read_text
from mlx_loopai.errors import InputError, all_problems
from mlx_loopai.language import tr

_TEXT_ENDINGS = (".txt", ".text", ".md")


@dataclass(frozen=True)
class Source:
    """A passage that the model was shown: its cleaned `text`, and the `file` and `line` (1-based) where it begins."""

    file: str
    line: int
    score: float
    chunk: str
    text: str


@dataclass(frozen=True)
class Prompt:
    """A question to the model, from one line of a file or from the command line.

    sources: the passages that `grounding` put before the last request; request: that request alone, "" without any.
    id: the row's own, or the number of its line. tools: JSON text of the functions that the model may call.
    """

    messages: tuple[Message, ...]
    origin: str
    sources: tuple[Source, ...] = ()
    request: str = ""
    id: str = ""
    tools: str = ""

    @property
    def text(self) -> str:
        """The last request, without what stands before it."""
        return self.request or self.messages[-1].content.replace(PICTURE, "")

    def answered(self, answer: str) -> Record:
        """The conversation that ends with `answer`."""
        messages = (*self.messages, Message("assistant", answer))
        return Record(messages=messages, kind="chat", category="domain", origin=self.origin)


def single_prompt(text: str, pictures: Sequence[Picture] = ()) -> Prompt:
    """A prompt given on the command line, after its `pictures`. Raises: InputError when it is empty or not UTF-8."""
    if not text.strip():
        raise InputError(tr("the prompt is empty; write what the model should answer"))
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(
            tr("the prompt is not UTF-8; type it in a UTF-8 terminal or give it as `prompts` FILE")
        ) from None
    return Prompt((showing(text, pictures),), "prompt")


def as_prompt(prompt: str | Sequence[Mapping[str, Any]], pictures: Sequence[Picture] = ()) -> Prompt:
    """A prompt given in Python: the request alone, or turns of which the last is the user's and shows `pictures`.

    Raises: InputError when it is empty, or its turns are not in order.
    """
    if isinstance(prompt, str):
        return single_prompt(prompt, pictures)
    messages = _messages({"messages": list(prompt)})
    if isinstance(messages, str):
        raise InputError(tr("`prompt`: {messages}", messages=messages), "prompt")
    return Prompt((*messages[:-1], showing(messages[-1].content, pictures)), "prompt")


def read_prompts(path: Path) -> list[Prompt]:
    """The prompts of a file: each line of a text file, or each row's `prompt` or `messages`.

    Blank lines of a text file are skipped. Raises: InputError with every problem (at most 10), each with file:line.
    """
    prompts = _text_lines(path) if path.suffix.lower() in _TEXT_ENDINGS else _rows(path)
    if not prompts:
        raise InputError(tr("{path}: holds no prompts; write one a line", path=path))
    return prompts


def read_few_shot(path: Path) -> tuple[Record, ...]:
    """Examples for the model to follow: rows with a request and its answer, in any shape training reads.

    Raises: InputError naming file:line for rows that cannot be read or have no request.
    """
    records = read_records(path)
    bare = [record.origin for record in records if all(message.role != "user" for message in record.messages)]
    if bare:
        raise InputError(
            all_problems(tr("{origin}: an example needs a request and its answer", origin=origin) for origin in bare)
        )
    return tuple(records)


def build_messages(
    prompt: str | Sequence[Message], few_shot: Sequence[Record] = (), system_prompt: str = ""
) -> list[Message]:
    """The conversation that the model continues: system prompt, examples as past turns, then the prompt.

    The prompt's own system message comes before `system_prompt`, and that before one in the examples.
    """
    asked = [Message("user", prompt)] if isinstance(prompt, str) else list(prompt)
    shown = [message for record in few_shot for message in record.messages]
    given = [Message("system", system_prompt)] if system_prompt else []
    systems = [*_with_role(asked, system=True), *given, *_with_role(shown, system=True)]
    return [*systems[:1], *_with_role(shown, system=False), *_with_role(asked, system=False)]


def _with_role(messages: Sequence[Message], system: bool) -> list[Message]:
    return [message for message in messages if (message.role == "system") == system]


def _text_lines(path: Path) -> list[Prompt]:
    missing = tr("give a .txt file with one prompt a line, or a .jsonl file")
    text = read_text(path, missing, tr("give a file of prompts in it"))
    lines = enumerate(text.split("\n"), start=1)
    return [
        Prompt((Message("user", line.strip()),), f"{path}:{number}", id=str(number))
        for number, line in lines
        if line.strip()
    ]


def _rows(path: Path) -> list[Prompt]:
    rows, broken = read_rows(path)
    prompts: list[Prompt] = []
    problems = [(problem.line, problem.reason) for problem in broken]
    for row in rows:
        messages = _messages(row.values)
        if isinstance(messages, str):
            problems.append((row.line, messages))
        else:
            prompts.append(Prompt(messages, f"{path}:{row.line}", id=str(row.values.get("id", row.line))))
    if problems:
        raise InputError(all_problems(f"{path}:{line}: {reason}" for line, reason in sorted(problems)))
    return prompts


def _messages(values: Any) -> tuple[Message, ...] | str:
    """The messages of a row, or what is wrong with it."""
    if not isinstance(values, Mapping):
        return tr("expected an object with prompt or messages")
    if "messages" not in values:
        prompt = values.get("prompt")
        if prompt is None:
            names = ", ".join(str(name) for name in list(values)[:8]) or "none"
            return tr("neither prompt nor messages (fields found: {names})", names=names)
        return (Message("user", prompt),) if _filled(prompt) else tr("prompt must be text and not empty")
    turns = values["messages"]
    if not isinstance(turns, list) or not turns:
        return tr("messages must be a list of turns with role and content")
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, Mapping) or turn.get("role") not in ROLES:
            return tr("turn {number} needs a role, one of {roles}", number=number, roles=", ".join(ROLES))
        if not _filled(turn.get("content")):
            return tr("turn {number}'s content must be text and not empty", number=number)
    if turns[-1]["role"] != "user":
        return tr("the last turn is the {role}'s; end with the user's, which the model answers", role=turns[-1]["role"])
    return tuple(Message(turn["role"], turn["content"]) for turn in turns)


def _filled(value: Any) -> bool:
    """Text that UTF-8 can hold (JSON can escape half of a surrogate pair) and that is not blank."""
    return isinstance(value, str) and bool(value.strip()) and not any("\ud800" <= char <= "\udfff" for char in value)
