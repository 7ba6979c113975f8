"""Which rows belong together, where pairs become known one after the other. Memory does not grow with the rows."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import numpy as np

from mlx_loopai.data.key_columns import Places, nameless_file

_AT_ONCE = 1 << 14
_BYTES = 8


class RowGroups:
    """Groups of `rows` rows, each of which is alone at first. A group is called by its first row.

    The structure is a union-find whose parents lie in an unnamed file. A place of the file holds one more than the row
    that belongs there, so that the zeros of an empty file mean a row alone.
    """

    def __init__(self, rows: int) -> None:
        self._file, self.rows = nameless_file(), rows
        self._file.truncate(_BYTES * rows)

    def root(self, row: int) -> int:
        """The first row of a row's group."""
        path = [row]
        while (above := self._above(path[-1])) != path[-1]:
            path.append(above)
        for passed in path[:-2]:
            self._put(passed, path[-1])
        return path[-1]

    def join(self, one: int, other: int) -> None:
        """Make one group of the groups of two rows."""
        first, later = sorted((self.root(one), self.root(other)))
        if first != later:
            self._put(later, first)

    def apart(self, ones: Places, others: Places) -> Iterator[tuple[int, int]]:
        """The pairs of rows that are not known to be in one group yet. Callers may join rows meanwhile."""
        for start in range(0, len(ones), _AT_ONCE):
            one, other = ones[start : start + _AT_ONCE], others[start : start + _AT_ONCE]
            unknown = np.flatnonzero(self._all_above(one) != self._all_above(other))
            for first, second in zip(one[unknown].tolist(), other[unknown].tolist(), strict=True):
                if self.root(first) != self.root(second):
                    yield first, second

    def later(self) -> Iterator[tuple[int, int]]:
        """(row, the first row of its group) of every row that is not the first, ascending."""
        for start in range(0, self.rows, _AT_ONCE):
            above = self._block(start)
            for row in (np.flatnonzero(above != np.arange(start, start + len(above))) + start).tolist():
                yield row, self.root(row)

    def lists(self) -> list[list[int]]:
        """The groups of more than one row."""
        found: dict[int, list[int]] = {}
        for row, first in self.later():
            found.setdefault(first, [first]).append(row)
        return [found[first] for first in sorted(found)]

    def close(self) -> None:
        """Give the file back."""
        self._file.close()

    def _above(self, row: int) -> int:
        """The row under which `row` was put; itself if none."""
        stored = int.from_bytes(os.pread(self._file.fileno(), _BYTES, _BYTES * row), sys.byteorder)
        return stored - 1 if stored else row

    def _put(self, row: int, above: int) -> None:
        os.pwrite(self._file.fileno(), (above + 1).to_bytes(_BYTES, sys.byteorder), _BYTES * row)

    def _block(self, start: int) -> Places:
        """`_above` of the rows from `start` on."""
        stored = np.frombuffer(os.pread(self._file.fileno(), _BYTES * _AT_ONCE, _BYTES * start), np.int64)
        return np.where(stored, stored - 1, np.arange(start, start + len(stored)))

    def _all_above(self, rows: Places) -> Places:
        """`_above` of each of `rows`."""
        found = np.empty_like(rows)
        order = np.argsort(rows)
        for some in np.split(order, np.flatnonzero(np.diff(rows[order] // _AT_ONCE)) + 1):
            if len(some):
                start = int(rows[some[0]]) // _AT_ONCE * _AT_ONCE
                found[some] = self._block(start)[rows[some] - start]
        return found
