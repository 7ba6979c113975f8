"""Encodes many records as token rows; counts those that were divided, and reports all errors at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from mlx_loopai.data.conversation import Record
from mlx_loopai.data.pairs import Judged, Pair
from mlx_loopai.data.position_rows import position_row
from mlx_loopai.data.positions import Position
from mlx_loopai.data.tokens import ChatEncoder, TokenRow
from mlx_loopai.data.unanswered import Unanswered
from mlx_loopai.errors import InputError, all_problems
from mlx_loopai.language import tr

# The most rows and characters that are tokenised in one call; an interruption waits until a call ends.
_BATCH_ROWS, _BATCH_CHARACTERS = 64, 1 << 17


@dataclass(frozen=True)
class SplitNotice:
    """How many records were longer than `max_tokens`, and how many rows they became."""

    records: int
    rows: int
    longest_tokens: int
    max_tokens: int

    def __str__(self) -> str:
        return tr(
            "{records} records are longer than {max_tokens} tokens (longest: {longest_tokens}); divided at "
            "turns and sentences into {rows} rows, nothing cut off",
            records=self.records,
            max_tokens=self.max_tokens,
            longest_tokens=self.longest_tokens,
            rows=self.rows,
        )


class Sink(Protocol):
    """Something that takes in rows as they are encoded: a list, or a file."""

    def extend(self, rows: Iterable[TokenRow], /) -> None:
        """Take in rows."""


def encode_records(
    encoder: ChatEncoder, records: Iterable[Record], max_tokens: int
) -> tuple[list[TokenRow], SplitNotice | None]:
    """(the rows, the notice) of `encode_into`."""
    rows: list[TokenRow] = []
    return rows, encode_into(rows, encoder, records, max_tokens)


def encode_into(
    rows: Sink, encoder: ChatEncoder, found: Iterable[Record | Judged], max_tokens: int
) -> SplitNotice | None:
    """Encode all that is `found`, in order, into `rows`, none of which is longer than `max_tokens`.

    Long records are divided, with a notice. A pair, an answer with a label, or a position is one row and is not
    divided, since only whole answers are compared.

    Raises: InputError with everything that cannot be encoded (at most 10 listed).
    """
    problems: dict[str, None] = {}  # an ordered set: what is wrong with the template is reported once
    divided = pieces = longest = 0
    for batch in _batches(found):
        encoded = iter(encoder.encode_many([record for _, answers in batch for record in answers]))
        for one, own in batch:
            whole = [next(encoded) for _ in own]
            try:
                parts = _parts(encoder, one, whole, max_tokens)
            except InputError as error:
                problems[str(error)] = None
                continue
            rows.extend(parts)
            if len(parts) > 1:
                divided, pieces = divided + 1, pieces + len(parts)
                longest = max([longest, *(len(row.ids) for row in whole if isinstance(row, TokenRow))])
    if problems:
        raise InputError(all_problems(problems))
    return SplitNotice(divided, pieces, longest, max_tokens) if divided else None


def _batches(found: Iterable[Record | Judged]) -> Iterator[list[tuple[Record | Judged, list[Record]]]]:
    """All that is `found` with its `_answers`, in order, in batches that are encoded at once."""
    batch: list[tuple[Record | Judged, list[Record]]] = []
    characters = 0
    for one in found:
        answers = _answers(one)
        batch.append((one, answers))
        for record in answers:
            characters += sum([len(message.content) for message in record.messages])
        if len(batch) == _BATCH_ROWS or characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _answers(one: Record | Judged) -> list[Record]:
    """The conversations with an answer that it holds: the better one of a pair first."""
    if isinstance(one, Record):
        return [one]
    if isinstance(one, Unanswered):
        return []
    return [one.chosen, one.rejected] if isinstance(one, Pair) else [one.answer]


def _parts(
    encoder: ChatEncoder, one: Record | Judged, whole: Sequence[TokenRow | InputError], max_tokens: int
) -> list[TokenRow]:
    """The rows that it becomes. whole: those of its `_answers`, however long."""
    rows = []
    for row in whole:
        if isinstance(row, InputError):
            raise row
        rows.append(row)
    if isinstance(one, Record):
        return encoder.split_long(one, max_tokens, rows[0])
    return [_whole(one, _judged(encoder, one, rows), max_tokens)]


def _judged(encoder: ChatEncoder, one: Judged, rows: Sequence[TokenRow]) -> TokenRow:
    if isinstance(one, Unanswered):
        return _prompt(encoder, one)
    if isinstance(one, Position):
        return position_row(one, rows[0], encoder.tokenizer)
    return replace(rows[0], rejected=rows[1]) if isinstance(one, Pair) else replace(rows[0], good=one.good)


def _prompt(encoder: ChatEncoder, one: Unanswered) -> TokenRow:
    """The tokens after which the model writes its answer, none of which is learnt."""
    record = one.prompt
    ids = encoder.prompt_ids(
        record.messages, allow_special=record.allow_special, tools=record.tools, origin=record.origin
    )
    return TokenRow(
        np.array(ids, np.int32),
        np.zeros(len(ids), np.bool_),
        origin=record.origin,
        category=record.category,
        wishes=one.wishes,
    )


def _whole(one: Judged, row: TokenRow, max_tokens: int) -> TokenRow:
    """`row`, which `one` became. Raises: InputError where it is longer than `max_tokens`."""
    if row.longest > max_tokens:
        raise InputError(
            tr(
                "{origin}: {longest} tokens are more than the {max_tokens} of a row, and judged answers are not "
                "divided; raise train.max_tokens or leave the row out",
                origin=one.origin,
                longest=row.longest,
                max_tokens=max_tokens,
            )
        )
    return row
