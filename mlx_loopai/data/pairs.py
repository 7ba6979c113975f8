"""Reads judged answers: pairs of a better and a worse answer, single answers with a label, positions in answers.

Prompts whose answers a run will write and judge itself are read here, too.

It reads TRL's forms (prompt/chosen/rejected as texts or lists of messages, chosen/rejected with the prompt inside,
prompt/completion/label) and those of other programs: a conversation with both answers in fields of their own
(LLaMA-Factory), `rejected_response` (ms-swift), `input`/`preferred_output`/`non_preferred_output` (OpenAI), and the
exports of `judged_exports`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlx_loopai.config.sources import SourceKind
from mlx_loopai.data.conversation import Message, Record
from mlx_loopai.data.judged_exports import exported_pair
from mlx_loopai.data.positions import Begun, Position, is_position, read_position
from mlx_loopai.data.shapes import ANSWER_NAMES, CHAT_NAMES, REQUEST_NAMES, Meaning, interpret, unpacked
from mlx_loopai.data.turns import UnreadableError, is_answer, kind_of
from mlx_loopai.data.unanswered import Unanswered, Wishes, is_unanswered, read_unanswered
from mlx_loopai.language import tr

CHOSEN, REJECTED, LABEL = "chosen", "rejected", "label"
_OTHER_NAMES = {"preferred_output": CHOSEN, "non_preferred_output": REJECTED, "rejected_response": REJECTED}
# Fields that `feedback` adds to a judged answer.
ORIGIN_NAMES = ("source", "model", "adapter", "seed", "time")
_TRUE, _FALSE = ("true", "👍"), ("false", "👎")


@dataclass(frozen=True)
class Pair:
    """Two answers to the same messages, the better and the worse, each as a conversation that ends with it."""

    chosen: Record
    rejected: Record

    @property
    def origin(self) -> str:
        """file:line of the row."""
        return self.chosen.origin

    @property
    def better(self) -> Record:
        """The answer that may be learnt as an ordinary one."""
        return self.chosen

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The messages that both answer."""
        return self.chosen.messages[: _shared(self.chosen.messages, self.rejected.messages)]

    def as_row(self) -> dict[str, Any]:
        """The pair in TRL's conversational form; reads back as it is."""
        start = len(self.prompt)
        row: dict[str, Any] = {
            "prompt": [message.as_turn() for message in self.prompt],
            CHOSEN: [message.as_row() for message in self.chosen.messages[start:]],
            REJECTED: [message.as_row() for message in self.rejected.messages[start:]],
        }
        return row | ({"tools": json.loads(self.chosen.tools)} if self.chosen.tools else {})


@dataclass(frozen=True)
class Label:
    """One answer and whether it is a good one."""

    answer: Record
    good: bool

    @property
    def origin(self) -> str:
        """file:line of the row."""
        return self.answer.origin

    @property
    def better(self) -> Record | None:
        """The answer that may be learnt as an ordinary one: a good one."""
        return self.answer if self.good else None

    def as_row(self) -> dict[str, Any]:
        """The answer in TRL's conversational form; reads back as it is."""
        *prompt, last = self.answer.messages
        row: dict[str, Any] = {
            "prompt": [message.as_turn() for message in prompt],
            "completion": [last.as_row()],
            LABEL: self.good,
        }
        return row | ({"tools": json.loads(self.answer.tools)} if self.answer.tools else {})


Judged = Pair | Label | Position | Unanswered


@dataclass(frozen=True)
class MadePairs:
    """`pairs` that a program made, and why other rows or prompts gave none: reason -> how many."""

    pairs: tuple[Pair, ...]
    dropped: dict[str, int]


@dataclass(frozen=True)
class JudgedMeaning:
    """A row's conversation, with the worse answer of a pair, a label, a position, or what is wished of an answer that
    it does not have; an ordinary row has none of these.
    """

    meaning: Meaning
    rejected: Meaning | None = None
    good: bool | None = None
    begun: Begun | None = None
    wishes: Wishes | None = None


def read_judged(values: Any, kind: SourceKind = "auto") -> JudgedMeaning:
    """What a row means when its answers may be judged.

    kind: with `pairs`, `labels`, `positions` or `prompts` every row must be one; with `rows` chosen and good answers
    become ordinary rows.

    Raises: UnreadableError saying why the row cannot be read so.
    """
    if not isinstance(values, Mapping):
        return JudgedMeaning(interpret(values))
    row = {str(name).strip().lower(): value for name, value in values.items() if value is not None}
    if is_position(row) or kind == "positions":
        return _position(row, kind)
    if kind == "prompts" or (kind == "auto" and is_unanswered(_without_origin(row))):
        asked, wishes = read_unanswered(_without_origin(row))
        return JudgedMeaning(asked, wishes=wishes)
    row = {_OTHER_NAMES.get(name, name): value for name, value in exported_pair(row).items()}
    if CHOSEN in row or REJECTED in row:
        if kind == "labels":
            raise UnreadableError(tr("a pair of answers among labelled ones; set `kind: pairs`, or make it two rows"))
        chosen, rejected = _pair(row)
        if kind == "rows":
            return JudgedMeaning(replace(chosen, unused=chosen.unused | {REJECTED}))
        return JudgedMeaning(chosen, rejected=rejected)
    if kind == "pairs":
        raise UnreadableError(tr("no pair: `chosen` and `rejected` are missing (kind: pairs)"))
    label = _label(row.get(LABEL), numbers=kind == "labels")
    if kind == "labels" and label is None:
        raise UnreadableError(
            tr("no label that says whether the answer is good; expected true or false (kind: labels)")
        )
    if label is None:
        return JudgedMeaning(interpret(values))
    if kind == "rows" and not label:
        raise UnreadableError(tr("label is false: this answer is marked as bad; leave the row out"))
    meaning = interpret({name: value for name, value in row.items() if name not in (LABEL, *ORIGIN_NAMES)})
    return JudgedMeaning(meaning) if kind == "rows" else JudgedMeaning(_answering_last(meaning), good=label)


def _position(row: Mapping[str, Any], kind: SourceKind) -> JudgedMeaning:
    if kind not in ("auto", "positions"):
        raise UnreadableError(
            tr("a position: it scores tokens, not whole answers; give it to preference.objective tlpo, without `kind`")
        )
    if not is_position(row):
        raise UnreadableError(tr("no position: `candidates` and `prefix_tokens` are missing (kind: positions)"))
    meaning, begun = read_position(_without_origin(row))
    return JudgedMeaning(_answering_last(meaning), begun=begun)


def _without_origin(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in ORIGIN_NAMES}


def _label(value: Any, numbers: bool) -> bool | None:
    """Whether a label means good; None for no such label.

    numbers: whether numbers count, which in other data may be labels such as the mood of a dialogue.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and (text := value.strip().lower()) in (*_TRUE, *_FALSE):
        return text in _TRUE
    if numbers and str(value).strip() in ("0", "1"):
        return str(value).strip() == "1"
    return None


def _pair(row: Mapping[str, Any]) -> tuple[Meaning, Meaning]:
    request = next((name for name in REQUEST_NAMES if name in row), None)
    chat = next((name for name in CHAT_NAMES if name in row), None)
    row = dict(row)
    if chat is None and isinstance(given := unpacked(row.get("input")), Mapping) and "messages" in given:
        chat, row["messages"] = "messages", given["messages"]
        del row["input"]
    if chat is not None:
        row = _answer_split_off(row, chat)
    for name, other in ((CHOSEN, REJECTED), (REJECTED, CHOSEN)):
        if name not in row:
            raise UnreadableError(
                tr(
                    "{other} without {name}: a pair needs both; one answer alone needs a `label`",
                    other=other,
                    name=name,
                )
            )
    # Further answers in the row, of other systems, are not part of the pair.
    rest = {name: value for name, value in row.items() if name not in (CHOSEN, REJECTED, *ANSWER_NAMES, *ORIGIN_NAMES)}
    chosen, rejected = (interpret(_as_row(rest, row[name], name, request, chat)) for name in (CHOSEN, REJECTED))
    start = _shared(chosen.messages, rejected.messages)
    tails = [meaning.messages[start:] for meaning in (chosen, rejected)]
    if not any(tails):
        raise UnreadableError(tr("chosen and rejected are the same answer"))
    if start == 0 or any(not tail or tail[0].role != "assistant" for tail in tails):
        raise UnreadableError(tr("chosen and rejected answer different messages; expected the same prompt in both"))
    return _answering_from(chosen, start), _answering_from(rejected, start)


def _answer_split_off(row: dict[str, Any], chat: str) -> dict[str, Any]:
    """ms-swift: the conversation ends with the chosen answer, and only the rejected one has a field of its own."""
    turns = unpacked(row[chat])
    if CHOSEN in row or not isinstance(turns, list) or not turns or not is_answer(turns[-1]):
        return row
    return row | {chat: turns[:-1], CHOSEN: turns[-1:]}


def _as_row(rest: Mapping[str, Any], given: Any, name: str, request: str | None, chat: str | None) -> dict[str, Any]:
    """The ordinary row of one of the two answers."""
    answer = unpacked(given)
    turns = [answer] if isinstance(answer, Mapping) else answer
    if isinstance(turns, list) and not all(is_answer(turn) for turn in turns):  # with its prompt inside
        inside = {key: value for key, value in rest.items() if key not in (request, chat)}
        return inside | {"messages": turns}
    if chat is not None:
        before = unpacked(rest[chat])
        if not isinstance(before, list):
            raise UnreadableError(tr("{chat} must be a list of turns, got {kind}", chat=chat, kind=kind_of(before)))
        said = turns if isinstance(turns, list) else [{"role": "assistant", "content": answer}]
        return {key: value for key, value in rest.items() if key != chat} | {"messages": [*before, *said]}
    if request is None:
        raise UnreadableError(
            tr("{name} without the prompt that it answers; expected a `prompt`, or a list of messages", name=name)
        )
    return {**rest, "completion": turns if isinstance(turns, list) else given}


def _shared(first: Sequence[Message], second: Sequence[Message]) -> int:
    """How many messages both begin with; an answer that is context counts as one that is learnt."""
    count = 0
    for one, other in zip(first, second, strict=False):
        if replace(one, taught=True) != replace(other, taught=True):
            break
        count += 1
    return count


def _answering_from(meaning: Meaning, start: int) -> Meaning:
    """Only what is said from message `start` on is judged; answers before are context."""
    messages = tuple(
        replace(message, taught=False) if at < start and message.role == "assistant" else message
        for at, message in enumerate(meaning.messages)
    )
    if not any(message.taught and message.role == "assistant" for message in messages[start:]):
        raise UnreadableError(tr("the judged answer has the weight 0: nothing is to be learnt of it"))
    return replace(meaning, messages=messages)


def _answering_last(meaning: Meaning) -> Meaning:
    if meaning.kind != "chat" or meaning.messages[-1].role != "assistant":
        raise UnreadableError(tr("a label judges the last answer, and the row does not end with one"))
    return _answering_from(meaning, len(meaning.messages) - 1)
