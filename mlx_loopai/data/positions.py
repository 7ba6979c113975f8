"""Reads positions: places in answers, with the tokens that might follow there and how good each of them is.

A position holds tokens and not only text, since a token of Korean text is often part of a character. It fits only a
model in whose vocabulary its tokens have the same names; `position_rows` checks that.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from mlx_loopai.data.conversation import Message, Record
from mlx_loopai.data.shapes import Meaning, interpret, unpacked
from mlx_loopai.data.turns import UnreadableError, kind_of
from mlx_loopai.language import tr

CANDIDATES, PREFIX, PREFIX_TOKENS = "candidates", "prefix", "prefix_tokens"
_MOST_CANDIDATES = 256
# Above every vocabulary, and small enough for an int32.
_IDS = 1 << 31


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A token that might follow.

    token: its id; piece: its name in the vocabulary; text: how the answer went on with it; score: higher is better;
    logprob: its log-probability to the model that wrote the answer, nats.
    """

    token: int
    piece: str
    text: str
    score: float
    logprob: float


@dataclass(frozen=True, kw_only=True)
class Begun:
    """An answer up to a position, and what might follow. prefix: the text of `prefix_tokens`."""

    prefix: str
    prefix_tokens: tuple[int, ...]
    candidates: tuple[Candidate, ...]

    @property
    def best(self) -> Candidate:
        """The likeliest of the candidates with the highest score."""
        return max(self.candidates, key=lambda one: (one.score, one.logprob))

    @property
    def text(self) -> str:
        """The answer as its best candidate goes on."""
        return self.prefix + self.best.text


@dataclass(frozen=True)
class Position:
    """A place in an answer. answer: the conversation that ends with the answer as its best candidate goes on."""

    answer: Record
    begun: Begun

    @staticmethod
    def after(prompt: Record, begun: Begun) -> Position:
        """The position in an answer to `prompt`, a record that ends with the request."""
        return Position(replace(prompt, messages=(*prompt.messages, Message("assistant", begun.text))), begun)

    @property
    def origin(self) -> str:
        """file:line of the row."""
        return self.answer.origin

    @property
    def better(self) -> None:
        """The answer that may be learnt as an ordinary one: none, since nobody read how it ends."""

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The messages that are answered."""
        return self.answer.messages[:-1]

    def as_row(self) -> dict[str, Any]:
        """The position as a row of a file; reads back as it is."""
        row: dict[str, Any] = {
            "prompt": [message.as_turn() for message in self.prompt],
            PREFIX: self.begun.prefix,
            PREFIX_TOKENS: list(self.begun.prefix_tokens),
            CANDIDATES: [asdict(one) for one in self.begun.candidates],
        }
        return row | ({"tools": json.loads(self.answer.tools)} if self.answer.tools else {})


def is_position(row: Mapping[str, Any]) -> bool:
    """Whether a row with these fields is a position."""
    return CANDIDATES in row and PREFIX_TOKENS in row


def read_position(row: Mapping[str, Any]) -> tuple[Meaning, Begun]:
    """(the conversation that ends with the answer as its best candidate goes on, the position in it).

    row: its fields by lower-cased name. Raises: UnreadableError saying what is wrong.
    """
    begun = Begun(
        prefix=_text(row.get(PREFIX, ""), PREFIX),
        prefix_tokens=_tokens(row[PREFIX_TOKENS]),
        candidates=_candidates(row),
    )
    if begun.prefix and not begun.prefix_tokens:
        raise UnreadableError(tr("prefix without prefix_tokens: its tokens cannot be known from its text"))
    rest = {name: value for name, value in row.items() if name not in (CANDIDATES, PREFIX, PREFIX_TOKENS)}
    return interpret(rest | {"completion": begun.text}), begun


def _candidates(row: Mapping[str, Any]) -> tuple[Candidate, ...]:
    given = unpacked(row[CANDIDATES])
    if not isinstance(given, list) or not 2 <= len(given) <= _MOST_CANDIDATES:
        raise UnreadableError(tr("candidates must be a list of 2 to {most} tokens", most=_MOST_CANDIDATES))
    found = tuple(_candidate(one, number) for number, one in enumerate(given, start=1))
    if len({one.token for one in found}) < len(found):
        raise UnreadableError(tr("candidates: the same token is there twice"))
    if len({one.score for one in found}) == 1:
        raise UnreadableError(tr("candidates: all have the same score, so there is nothing to learn here"))
    return found


def _candidate(given: Any, number: int) -> Candidate:
    if not isinstance(given, Mapping):
        raise UnreadableError(
            tr("candidate {number} must be an object, got {kind}", number=number, kind=kind_of(given))
        )
    missing = [field.name for field in fields(Candidate) if field.name not in given]
    if missing:
        raise UnreadableError(tr("candidate {number} has no {missing}", number=number, missing=", ".join(missing)))
    return Candidate(
        token=_id(given["token"], f"candidates[{number}].token"),
        piece=_text(given["piece"], f"candidates[{number}].piece"),
        text=_text(given["text"], f"candidates[{number}].text"),
        score=_number(given["score"], f"candidates[{number}].score"),
        logprob=_number(given["logprob"], f"candidates[{number}].logprob"),
    )


def _tokens(value: Any) -> tuple[int, ...]:
    given = unpacked(value)
    if not isinstance(given, list):
        raise UnreadableError(tr("{name} must be a list of token ids", name=PREFIX_TOKENS))
    return tuple(_id(one, PREFIX_TOKENS) for one in given)


def _id(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _IDS:
        raise UnreadableError(tr("{name}: {value!r} is not the id of a token", name=name, value=value))
    return value


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise UnreadableError(tr("{name} must be text, got {kind}", name=name, kind=kind_of(value)))
    return value


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UnreadableError(tr("{name}: {value!r} is not a finite number", name=name, value=value))
    return float(value)
