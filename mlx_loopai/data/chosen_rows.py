"""Selections of rows by index, so that drawing, mixing and splitting move numbers and never the rows themselves."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import compress
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt

from mlx_loopai.data.row_identity import Digest, content_digest, row_digest
from mlx_loopai.data.tokens import REHEARSAL, TokenRow

# What is known of every row before any is trained on. tokens: of the row; rejected: tokens of the worse answer of a
# pair, or 0; supervised: tokens of both that are learnt; rehearsal: whether a phase mixed it in; labelled: whether it
# has a good or bad label; bad: whether that label is bad; candidates: how many tokens might follow at a position, or 0;
# asked: whether it is a prompt without an answer.
Column = Literal["tokens", "rejected", "supervised", "rehearsal", "labelled", "bad", "candidates", "asked"]
Values = npt.NDArray[Any]
_COLUMNS: dict[Column, tuple[Callable[[TokenRow], int], type[np.generic]]] = {
    "tokens": (lambda row: len(row.ids), np.int32),
    "rejected": (lambda row: 0 if row.rejected is None else len(row.rejected.ids), np.int32),
    "supervised": (lambda row: sum(int(answer.supervised.sum()) for answer in row.answers), np.int32),
    "rehearsal": (lambda row: row.category == REHEARSAL, np.bool_),
    "labelled": (lambda row: row.good is not None, np.bool_),
    "bad": (lambda row: row.good is False, np.bool_),
    "candidates": (lambda row: 0 if row.candidates is None else len(row.candidates), np.int32),
    "asked": (lambda row: row.wishes is not None, np.bool_),
}
_DIGESTS: dict[Digest, Callable[[TokenRow], bytes]] = {"digest": row_digest, "content": content_digest}
# Four bytes each: a run may have millions of rows.
Places = npt.NDArray[np.int32]


class LazyRows(Sequence[TokenRow]):
    """Rows that are made only when they are asked for, with columns that are known without making any."""

    @abstractmethod
    def column(self, name: Column) -> Values:
        """[rows], made anew each time: columns that stay would be most of what a row takes in memory."""

    @abstractmethod
    def digest(self, place: int, kind: Digest) -> bytes:
        """A hash of a row."""

    def digests(self, kind: Digest) -> Iterator[bytes]:
        """A hash of each row, in order."""
        return (self.digest(place, kind) for place in range(len(self)))

    @abstractmethod
    def row(self, place: int) -> TokenRow:
        """The row at `place`, in [0, len)."""

    @overload
    def __getitem__(self, place: int) -> TokenRow: ...

    @overload
    def __getitem__(self, place: slice) -> list[TokenRow]: ...

    def __getitem__(self, place: int | slice) -> TokenRow | list[TokenRow]:
        if isinstance(place, slice):
            return [self.row(at) for at in range(*place.indices(len(self)))]
        return self.row(range(len(self))[place])

    def __iter__(self) -> Iterator[TokenRow]:
        return map(self.row, range(len(self)))


class ChosenRows(LazyRows):
    """A selection from several sequences of rows. places: indices into their concatenation."""

    def __init__(self, parts: Sequence[Sequence[TokenRow]], places: Places) -> None:
        self._parts, self._places = parts, places
        self._starts = np.cumsum([0, *map(len, parts)])

    @staticmethod
    def joined(parts: Sequence[Sequence[TokenRow]]) -> ChosenRows:
        """All rows of `parts`, in order."""
        return ChosenRows(parts, np.arange(sum(map(len, parts)), dtype=np.int32))

    def __len__(self) -> int:
        return len(self._places)

    def column(self, name: Column) -> Values:
        found = [column_of(part, name) for part in self._parts]
        none = np.zeros(0, _COLUMNS[name][1])
        return (found[0] if len(found) == 1 else np.concatenate([none, *found]))[self._places]

    def digests(self, kind: Digest) -> Iterator[bytes]:
        if len(self._parts) > 1 or bool((np.diff(self._places) <= 0).any()):
            return super().digests(kind)
        chosen = np.zeros(len(self._parts[0]), np.bool_)
        chosen[self._places] = True
        return compress(digests_of(self._parts[0], kind), chosen)

    def digest(self, place: int, kind: Digest) -> bytes:
        part, at = self._found(place)
        return part.digest(at, kind) if isinstance(part, LazyRows) else _DIGESTS[kind](part[at])

    def row(self, place: int) -> TokenRow:
        part, at = self._found(place)
        return part[at]

    def _found(self, place: int) -> tuple[Sequence[TokenRow], int]:
        at = int(self._places[place])
        number = int(np.searchsorted(self._starts, at, side="right")) - 1
        return self._parts[number], at - int(self._starts[number])


def column_of(rows: Sequence[TokenRow], name: Column) -> Values:
    """[rows] of one thing that is known of each."""
    if isinstance(rows, LazyRows):
        return rows.column(name)
    known, dtype = _COLUMNS[name]
    return np.fromiter(map(known, rows), dtype, len(rows))


def longest_of(rows: Sequence[TokenRow]) -> npt.NDArray[np.int32]:
    """[rows] tokens of the longer of each row's answers."""
    return np.maximum(column_of(rows, "tokens"), column_of(rows, "rejected"))


def judged_in(rows: Sequence[TokenRow]) -> npt.NDArray[np.bool_]:
    """[rows] whether it is known how good the answer is, or the tokens that might follow in it."""
    return (column_of(rows, "rejected") > 0) | column_of(rows, "labelled") | (column_of(rows, "candidates") > 0)


def digests_of(rows: Sequence[TokenRow], kind: Digest = "digest") -> Iterator[bytes]:
    """A hash of each row, in order."""
    if isinstance(rows, LazyRows):
        return rows.digests(kind)
    return map(_DIGESTS[kind], rows)
