"""Encodes many records as token rows; counts those that were divided, and reports all errors at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol

from mlx_loopai.data.conversation import Record
from mlx_loopai.data.pairs import Judged, Pair
from mlx_loopai.data.tokens import ChatEncoder, TokenRow
from mlx_loopai.errors import InputError, all_problems
from mlx_loopai.language import tr


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

    Long records are divided, with a notice. A pair, or an answer with a label, is one row and is not divided, since
    only whole answers are compared.

    Raises: InputError with everything that cannot be encoded (at most 10 listed).
    """
    problems: dict[str, None] = {}  # an ordered set: what is wrong with the template is reported once
    divided = pieces = longest = 0
    for one in found:
        try:
            parts = (
                encoder.split_long(one, max_tokens) if isinstance(one, Record) else [_judged(encoder, one, max_tokens)]
            )
        except InputError as error:
            problems[str(error)] = None
            continue
        rows.extend(parts)
        if isinstance(one, Record) and len(parts) > 1:
            divided, pieces = divided + 1, pieces + len(parts)
            longest = max(longest, len(encoder.encode(one).ids))
    if problems:
        raise InputError(all_problems(problems))
    return SplitNotice(divided, pieces, longest, max_tokens) if divided else None


def _judged(encoder: ChatEncoder, one: Judged, max_tokens: int) -> TokenRow:
    if isinstance(one, Pair):
        row = replace(encoder.encode(one.chosen), rejected=encoder.encode(one.rejected))
    else:
        row = replace(encoder.encode(one.answer), good=one.good)
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
