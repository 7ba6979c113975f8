"""Many records become token rows: what is divided is told, and all that cannot be encoded is named at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from mlx_loopai.data.conversation import Record
from mlx_loopai.data.pairs import Judged, Pair
from mlx_loopai.data.tokens import ChatEncoder, TokenRow
from mlx_loopai.errors import InputError, all_problems
from mlx_loopai.language import tr
from mlx_loopai.progress import Advance, ignore


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


def encode_records(
    encoder: ChatEncoder, records: Iterable[Record], max_tokens: int, on_progress: Advance = ignore
) -> tuple[list[TokenRow], SplitNotice | None]:
    """The rows of all records, in order, none longer than `max_tokens`; and a notice when some had to be divided.

    Raises: InputError with every record that cannot be encoded (at most 10 listed).
    """
    rows: list[TokenRow] = []
    divided: list[list[TokenRow]] = []
    problems: dict[str, None] = {}  # a set in order: what is wrong with the template is said once
    longest = 0
    for done, record in enumerate(records, start=1):
        on_progress(done)
        try:
            parts = encoder.split_long(record, max_tokens)
        except InputError as error:
            problems[str(error)] = None
            continue
        rows += parts
        if len(parts) > 1:
            divided.append(parts)
            longest = max(longest, len(encoder.encode(record).ids))
    if problems:
        raise InputError(all_problems(problems))
    notice = SplitNotice(len(divided), sum(map(len, divided)), longest, max_tokens) if divided else None
    return rows, notice


def encode_judged(encoder: ChatEncoder, judged: Iterable[Judged], max_tokens: int) -> list[TokenRow]:
    """A row for every pair and labelled answer, in order; none is divided, since only whole answers are compared.

    Raises: InputError with every one that cannot be encoded or is longer than `max_tokens` (at most 10 listed).
    """
    rows: list[TokenRow] = []
    problems: dict[str, None] = {}
    for one in judged:
        try:
            if isinstance(one, Pair):
                row = replace(encoder.encode(one.chosen), rejected=encoder.encode(one.rejected))
            else:
                row = replace(encoder.encode(one.answer), good=one.good)
        except InputError as error:
            problems[str(error)] = None
            continue
        rows.append(row)
        if row.longest > max_tokens:
            problems[
                tr(
                    "{origin}: {longest} tokens are more than the {max_tokens} of a row, and judged answers are not "
                    "divided; raise train.max_tokens or leave the row out",
                    origin=one.origin,
                    longest=row.longest,
                    max_tokens=max_tokens,
                )
            ] = None
    if problems:
        raise InputError(all_problems(problems))
    return rows
