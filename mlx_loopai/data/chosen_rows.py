"""Selections of rows by index, so that drawing, mixing and splitting move numbers and never the rows themselves."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import overload

import numpy as np
import numpy.typing as npt

from mlx_loopai.data.row_identity import row_digest
from mlx_loopai.data.tokens import REHEARSAL, TokenRow

# What is known of every row before any is trained on. tokens: of the row; rejected: tokens of the worse answer of a
# pair, or 0; rehearsal: whether a phase mixed it in; labelled: whether it has a good or bad label; bad: whether that
# label is bad.
COLUMNS = np.dtype([("tokens", "<i4"), ("rejected", "<i4"), ("rehearsal", "?"), ("labelled", "?"), ("bad", "?")])

Columns = npt.NDArray[np.void]
# Four bytes each: a run may have millions of rows.
Places = npt.NDArray[np.int32]


class LazyRows(Sequence[TokenRow]):
    """Rows that are made only when they are asked for, with columns that are known without making any."""

    @property
    @abstractmethod
    def columns(self) -> Columns:
        """[rows] of `COLUMNS`."""

    @abstractmethod
    def digest(self, place: int) -> bytes:
        """`row_digest` of a row."""

    @abstractmethod
    def row(self, place: int) -> TokenRow:
        """The row at `place`, in [0, len)."""

    def __len__(self) -> int:
        return len(self.columns)

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

    @cached_property
    def columns(self) -> Columns:
        found = [columns_of(part) for part in self._parts]
        return (found[0] if len(found) == 1 else np.concatenate([np.zeros(0, COLUMNS), *found]))[self._places]

    def digest(self, place: int) -> bytes:
        part, at = self._found(place)
        return part.digest(at) if isinstance(part, LazyRows) else row_digest(part[at])

    def row(self, place: int) -> TokenRow:
        part, at = self._found(place)
        return part[at]

    def _found(self, place: int) -> tuple[Sequence[TokenRow], int]:
        at = int(self._places[place])
        number = int(np.searchsorted(self._starts, at, side="right")) - 1
        return self._parts[number], at - int(self._starts[number])


def columns_of(rows: Sequence[TokenRow]) -> Columns:
    """[rows] of `COLUMNS`."""
    if isinstance(rows, LazyRows):
        return rows.columns
    found = np.zeros(len(rows), COLUMNS)
    for place, row in enumerate(rows):
        rejected = 0 if row.rejected is None else len(row.rejected.ids)
        found[place] = (len(row.ids), rejected, row.category == REHEARSAL, row.good is not None, row.good is False)
    return found


def longest_of(rows: Sequence[TokenRow]) -> npt.NDArray[np.int32]:
    """[rows] tokens of the longer of each row's answers."""
    columns = columns_of(rows)
    return np.maximum(columns["tokens"], columns["rejected"])


def judged_in(rows: Sequence[TokenRow]) -> npt.NDArray[np.bool_]:
    """[rows] whether somebody said how good the answer is."""
    columns = columns_of(rows)
    return (columns["rejected"] > 0) | columns["labelled"]


def digests_of(rows: Sequence[TokenRow]) -> Iterator[bytes]:
    """`row_digest` of each row, in order."""
    if isinstance(rows, LazyRows):
        return map(rows.digest, range(len(rows)))
    return map(row_digest, rows)
