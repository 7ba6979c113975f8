"""Encoded rows in one file: written a row at a time, read back by their places, so that none need stay in memory.

Layout: `_MAGIC`; for each row its tokens and which of them are supervised, the same two for the worse answer of a pair,
and `_CANDIDATE` for each token that might follow at a position; `_TABLE` for every row; JSON notes; `_END`. All numbers
are little-endian.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from mlx_loopai.data.chosen_rows import Column, LazyRows, Values
from mlx_loopai.data.key_columns import nameless_file
from mlx_loopai.data.row_identity import Digest, content_digest, row_digest
from mlx_loopai.data.tokens import TokenRow
from mlx_loopai.errors import InputError
from mlx_loopai.language import tr
from mlx_loopai.models.micro_batch import CANDIDATES

_MAGIC = b"loopai rows 3\n\0\0"
# What is known of a row without reading it. start: of its tokens in the file; file, line: where it comes from.
_TABLE = np.dtype(
    [
        ("digest", "V32"),
        ("content", "V32"),
        ("start", "<i8"),
        ("file", "<i4"),
        ("line", "<i4"),
        ("tokens", "<i4"),
        ("rejected", "<i4"),
        ("supervised", "<i4"),
        ("label", "i1"),
        ("candidates", "<i4"),
        ("begun", "<i4"),
    ]
)
# A line of the table, made without numpy's overhead for single values.
_PACKED = struct.Struct("<32s32sqiiiiibii")
_CANDIDATE = np.dtype([("token", "<i4"), ("score", "<f8")])
_END = np.dtype([("rows", "<i8"), ("table", "<i8"), ("notes", "<i8")])
# Rows whose table is read at once.
_AT_ONCE = 1 << 14
_NO_LABEL, _GOOD, _BAD = 0, 1, 2
_TOKEN_BYTES = 5  # an int32 and a bool


class RowWriter:
    """Writes rows into an open file; `finish` completes it. files: those that the rows come from.

    Meanwhile the table lies in an unnamed file, which `close` gives back.
    """

    def __init__(self, file: IO[bytes], files: Sequence[Path]) -> None:
        self._file, self._files = file, {str(path): number for number, path in enumerate(files)}
        self._table, self._rows = nameless_file(), 0
        self._position = file.write(_MAGIC)

    def extend(self, rows: Iterable[TokenRow]) -> None:
        """Take in rows of text."""
        for row in rows:
            self._append(row)

    def _append(self, row: TokenRow) -> None:
        file, _, line = row.origin.rpartition(":")
        known = (
            row_digest(row),
            content_digest(row),
            self._position,
            self._files[file],
            int(line),
            len(row.ids),
            0 if row.rejected is None else len(row.rejected.ids),
            sum(int(np.count_nonzero(answer.supervised)) for answer in row.answers),
            _NO_LABEL if row.good is None else _GOOD if row.good else _BAD,
            0 if row.candidates is None else len(row.candidates),
            row.begun,
        )
        self._table.write(_PACKED.pack(*known))
        self._rows += 1
        for answer in row.answers:
            ids = answer.ids.astype("<i4", copy=False)
            self._position += self._file.write(ids.tobytes() + answer.supervised.tobytes())
        if row.candidates is not None:
            kept = row.candidates[["token", "score"]].astype(_CANDIDATE)
            self._position += self._file.write(kept.tobytes())

    def finish(self, notes: dict[str, Any]) -> None:
        """Write the table, the notes and the end. notes: JSON values, read back with the rows."""
        self._table.seek(0)
        shutil.copyfileobj(self._table, self._file)
        notes_start = self._position + self._rows * _TABLE.itemsize
        self._file.write(json.dumps(notes, ensure_ascii=False).encode("utf-8", "surrogatepass"))
        self._file.write(np.array((self._rows, self._position, notes_start), _END).tobytes())
        self._file.flush()

    def close(self) -> None:
        """Give the table's file back; the rows' file is its owner's."""
        self._table.close()


class RowFile(LazyRows):
    """The rows of a file that `RowWriter` wrote; nothing of them is in memory. The file stays open meanwhile.

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
        self._rows, self._table_start, notes = map(int, end[0])
        self.notes: dict[str, Any] = json.loads(
            self._read(notes, size - _END.itemsize - notes).decode("utf-8", "surrogatepass")
        )

    def __len__(self) -> int:
        return self._rows

    def column(self, name: Column) -> Values:
        parts = [_column(self._known(start, _AT_ONCE), name) for start in range(0, max(1, self._rows), _AT_ONCE)]
        return np.concatenate(parts)

    def digest(self, place: int, kind: Digest) -> bytes:
        return self._known(place, 1)[kind].tobytes()

    def digests(self, kind: Digest) -> Iterator[bytes]:
        for start in range(0, self._rows, _AT_ONCE):
            digests = self._known(start, _AT_ONCE)[kind].tobytes()
            yield from (digests[at : at + 32] for at in range(0, len(digests), 32))

    def row(self, place: int) -> TokenRow:
        _, _, start, file, line, tokens, rejected, _, label, n_candidates, begun = self._known(place, 1)[0].tolist()
        answers = _TOKEN_BYTES * (tokens + rejected)
        content = self._read(start, answers + _CANDIDATE.itemsize * n_candidates)
        origin = f"{self._files[file]}:{line}"
        worse = self._answer(content, _TOKEN_BYTES * tokens, rejected)
        ids, supervised = self._answer(content, 0, tokens)
        return TokenRow(
            ids,
            supervised,
            origin=origin,
            category=self._category,
            rejected=TokenRow(*worse, origin=origin, category=self._category) if rejected else None,
            good=None if label == _NO_LABEL else label == _GOOD,
            candidates=_candidates(content, answers, n_candidates) if n_candidates else None,
            begun=begun,
        )

    def _known(self, place: int, count: int) -> npt.NDArray[np.void]:
        """[at most `count`] of `_TABLE`, from a row on."""
        count = min(count, self._rows - place)
        return np.frombuffer(self._read(self._table_start + place * _TABLE.itemsize, count * _TABLE.itemsize), _TABLE)

    @staticmethod
    def _answer(content: bytes, start: int, tokens: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        ids = np.frombuffer(content, "<i4", tokens, start)
        return ids, np.frombuffer(content, np.bool_, tokens, start + 4 * tokens)

    def _read(self, start: int, size: int) -> bytes:
        # Not mapped: pages of a mapped file count as the process's memory.
        return os.pread(self._handle, size, start)


def _candidates(content: bytes, start: int, count: int) -> npt.NDArray[np.void]:
    found, kept = np.zeros(count, CANDIDATES), np.frombuffer(content, _CANDIDATE, count, start)
    found["token"], found["score"] = kept["token"], kept["score"]
    return found


def _column(known: npt.NDArray[np.void], name: Column) -> Values:
    if name in ("rehearsal", "asked"):  # neither is in a file
        return np.zeros(len(known), np.bool_)
    if name in ("labelled", "bad"):
        return known["label"] != _NO_LABEL if name == "labelled" else known["label"] == _BAD
    return known[name].copy()  # a view would keep the whole table
