"""Keys of many rows in an unnamed file, and which rows have equal ones. Memory does not grow with the rows."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from typing import IO

import numpy as np
import numpy.typing as npt

from mlx_loopai.files import cache_folder

Keys = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]

# Keys that are written and read at once, and about how many are sorted at once.
_KEYS_AT_ONCE, _SORTED_AT_ONCE = 4096, 1 << 16


def nameless_file() -> IO[bytes]:
    """An empty file of the cache folder that is gone when it is closed. Its owner closes it."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryFile(dir=folder)


class KeyColumns:
    """Keys of rows by column; each row has one key in each column."""

    def __init__(self, columns: int) -> None:
        self._file, self._columns = nameless_file(), columns
        self._waiting: list[Keys] = []
        self._blocks: list[int] = []

    def append(self, keys: Keys) -> None:
        """Take in the keys [rows, columns] of more rows."""
        self._waiting.append(keys)
        if sum(map(len, self._waiting)) >= _KEYS_AT_ONCE:
            self._write()

    def equal(self, column: int, rows: int) -> Iterator[tuple[Places, Places]]:
        """Places (first, other) of rows with equal keys: each row that is not the first with its key, and the first.

        rows: how many are looked at, from the first on. Keys are sorted part by part, together with the rows' places
        in their lowest bits; so as many bits of a key are not compared. With 2 million rows these are 21 of 64.
        """
        parts = 1 << max(0, rows.bit_length() - _SORTED_AT_ONCE.bit_length())
        place = np.uint64((1 << max(1, rows.bit_length())) - 1)
        for part in range(parts):
            sorting = _Sorting(place)
            for start, keys in self._read(column, rows):
                chosen = np.flatnonzero(keys & np.uint64(parts - 1) == part)
                if not sorting.has_room(len(chosen)):
                    yield sorting.pairs()
                sorting.add((keys[chosen] & ~place) | (chosen + start).astype(np.uint64))
            yield sorting.pairs()

    def close(self) -> None:
        """Give the file back."""
        self._file.close()

    def _write(self) -> None:
        if self._waiting:
            block = np.concatenate(self._waiting)
            self._file.write(np.ascontiguousarray(block.T).tobytes())
            self._blocks.append(len(block))
            self._waiting.clear()

    def _read(self, column: int, rows: int) -> Iterator[tuple[int, Keys]]:
        """A column's keys of the rows up to `rows`, a block at a time, each with the place of its first row."""
        self._write()
        self._file.flush()
        start = 0
        for size in self._blocks:
            position = 8 * (start * self._columns + size * column)
            yield start, np.frombuffer(os.pread(self._file.fileno(), 8 * size, position), np.uint64)[: rows - start]
            start += size
            if start >= rows:
                return


class _Sorting:
    """Finds equal keys among those of one part, in memory for a fixed number of them.

    place: the bits of a key in which the place of its row lies.
    """

    def __init__(self, place: np.uint64) -> None:
        self._keys, self._filled, self._place = np.empty(2 * _SORTED_AT_ONCE, np.uint64), 0, place

    def has_room(self, count: int) -> bool:
        return self._filled + count <= len(self._keys)

    def add(self, keys: Keys) -> None:
        """Take in keys of later rows."""
        if not self.has_room(len(keys)):  # more different keys than any part should have
            self._keys = np.concatenate([self._keys, np.empty(len(self._keys) + len(keys), np.uint64)])
        self._keys[self._filled : self._filled + len(keys)] = keys
        self._filled += len(keys)

    def pairs(self) -> tuple[Places, Places]:
        """The first row with its key, for each row that is not, and that row. From then on, the first rows are kept."""
        keys = self._keys[: self._filled]
        keys.sort()
        begins = np.ones(len(keys), np.bool_)
        np.greater(keys[1:] ^ keys[:-1], self._place, out=begins[1:])
        # A first row comes before the others with its key, so the keys that began up to a row lead to its first.
        others = np.flatnonzero(~begins)
        found = keys[np.flatnonzero(begins)[np.cumsum(begins, dtype=np.int32)[others] - 1]], keys[others]
        self._filled = int(begins.sum())
        keys[: self._filled] = keys[begins]
        first, other = ((some & self._place).astype(np.int64) for some in found)
        return first, other
