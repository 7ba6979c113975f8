"""Encoded rows in one file: written a row at a time, read back by their places, so that none need stay in memory.

Layout: `_MAGIC`; for each row `_HEAD`, its tokens and which of them are supervised, and the same two for the worse
answer of a pair; `_TABLE` for every row; JSON notes; `_END`. All numbers are little-endian.
"""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from mlx_loopai.data.chosen_rows import COLUMNS, Columns, LazyRows
from mlx_loopai.data.row_identity import row_digest
from mlx_loopai.data.tokens import TokenRow
from mlx_loopai.errors import InputError
from mlx_loopai.language import tr

_MAGIC = b"loopai rows 1\n\0\0"
_HEAD = np.dtype([("digest", "S32"), ("file", "<i4"), ("line", "<i4")])
_TABLE = np.dtype([("tokens", "<i4"), ("rejected", "<i4"), ("label", "i1")])
_END = np.dtype([("rows", "<i8"), ("table", "<i8"), ("notes", "<i8")])
_NO_LABEL, _GOOD, _BAD = 0, 1, 2
_TOKEN_BYTES = 5  # an int32 and a bool


class RowWriter:
    """Writes rows into an open file; `finish` completes it. files: those that the rows come from."""

    def __init__(self, file: IO[bytes], files: Sequence[Path]) -> None:
        self._file, self._files = file, {str(path): number for number, path in enumerate(files)}
        self._table = bytearray()
        file.write(_MAGIC)

    def extend(self, rows: Iterable[TokenRow]) -> None:
        """Take in rows of text."""
        for row in rows:
            self._append(row)

    def _append(self, row: TokenRow) -> None:
        file, _, line = row.origin.rpartition(":")
        head = np.array((row_digest(row), self._files[file], int(line)), _HEAD)
        self._file.write(head.tobytes())
        for answer in row.answers:
            self._file.write(answer.ids.astype("<i4").tobytes() + answer.supervised.tobytes())
        label = _NO_LABEL if row.good is None else _GOOD if row.good else _BAD
        rejected = 0 if row.rejected is None else len(row.rejected.ids)
        self._table += np.array((len(row.ids), rejected, label), _TABLE).tobytes()

    def finish(self, notes: dict[str, Any]) -> None:
        """Write the table, the notes and the end. notes: JSON values, read back with the rows."""
        content = json.dumps(notes, ensure_ascii=False).encode("utf-8", "surrogatepass")
        table = self._file.tell()
        self._file.write(self._table + content)
        end = (len(self._table) // _TABLE.itemsize, table, table + len(self._table))
        self._file.write(np.array(end, _END).tobytes())
        self._file.flush()


class RowFile(LazyRows):
    """The rows of a file that `RowWriter` wrote; a few bytes per row are in memory. The file stays open meanwhile.

    files: where the rows come from, in the order that the writer was given; category: of all rows.
    """

    def __init__(self, path: Path, files: Sequence[Path], category: str) -> None:
        self._handle = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._handle)
        self._files, self._category = [str(file) for file in files], category
        size = os.fstat(self._handle).st_size
        end = np.frombuffer(self._read(max(0, size - _END.itemsize), _END.itemsize), _END)
        if self._read(0, len(_MAGIC)) != _MAGIC or not len(end):
            raise InputError(tr("{path}: is not a file of encoded rows; delete it", path=path))
        rows, table, notes = map(int, end[0])
        self._table = np.frombuffer(self._read(table, rows * _TABLE.itemsize), _TABLE)
        self.notes: dict[str, Any] = json.loads(
            self._read(notes, size - _END.itemsize - notes).decode("utf-8", "surrogatepass")
        )
        tokens = self._table["tokens"].astype(np.int64) + self._table["rejected"]
        self._starts = np.full(rows + 1, len(_MAGIC), np.int64)
        self._starts[1:] += np.cumsum(_HEAD.itemsize + _TOKEN_BYTES * tokens)

    def __len__(self) -> int:
        return len(self._table)

    @cached_property
    def columns(self) -> Columns:
        found = np.zeros(len(self._table), COLUMNS)
        for name in ("tokens", "rejected"):
            found[name] = self._table[name]
        found["labelled"] = self._table["label"] != _NO_LABEL
        found["bad"] = self._table["label"] == _BAD
        return found

    def digest(self, place: int) -> bytes:
        return self._read(int(self._starts[place]), 32)

    def row(self, place: int) -> TokenRow:
        start, end = self._starts[place : place + 2].tolist()
        tokens, rejected, label = self._table[place].tolist()
        content = self._read(start, end - start)
        (_, file, line) = np.frombuffer(content, _HEAD, 1)[0].tolist()
        origin = f"{self._files[file]}:{line}"
        worse = self._answer(content, _HEAD.itemsize + _TOKEN_BYTES * tokens, rejected)
        ids, supervised = self._answer(content, _HEAD.itemsize, tokens)
        return TokenRow(
            ids,
            supervised,
            origin=origin,
            category=self._category,
            rejected=TokenRow(*worse, origin=origin, category=self._category) if rejected else None,
            good=None if label == _NO_LABEL else label == _GOOD,
        )

    @staticmethod
    def _answer(content: bytes, start: int, tokens: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        ids = np.frombuffer(content, "<i4", tokens, start)
        return ids, np.frombuffer(content, np.bool_, tokens, start + 4 * tokens)

    def _read(self, start: int, size: int) -> bytes:
        # Not mapped: pages of a mapped file count as the process's memory.
        return os.pread(self._handle, size, start)
