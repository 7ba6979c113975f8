"""The passages of an index in one SQLite file: their text, the file and line they come from, and their terms."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlx_loopai.errors import InputError
from mlx_loopai.language import tr
from mlx_loopai.retrieval.chunks import Chunk
from mlx_loopai.retrieval.terms import Terms

_SCHEMA = {
    "files": "CREATE TABLE files (number INTEGER PRIMARY KEY, path TEXT, key TEXT)",
    # passage: its number in the term arrays; NULL for one whose words stand in an earlier passage.
    "chunks": "CREATE TABLE chunks (file INTEGER, line INTEGER, id TEXT, text TEXT, terms BLOB, passage INTEGER)",
    "by_file": "CREATE INDEX by_file ON chunks (file)",
    "by_passage": "CREATE INDEX by_passage ON chunks (passage)",
}
_SELECT = "SELECT chunks.id, files.path, chunks.line, chunks.text FROM chunks JOIN files ON files.number = chunks.file"


@dataclass(frozen=True)
class FileChunks:
    """One file's passages and their terms. `key` identifies its content and how it was cut."""

    path: str
    key: str
    chunks: Sequence[Chunk]
    terms: Sequence[Terms]


def write_database(path: Path, files: Sequence[FileChunks]) -> list[tuple[Chunk, Terms]]:
    """Write all files' passages. Returns: each distinct one, at its number in the index. Raises: OSError."""
    numbers: dict[str, int] = {}
    distinct: list[tuple[Chunk, Terms]] = []
    with _as_os_error(path), closing(sqlite3.connect(path)) as connection, connection:
        for statement in _SCHEMA.values():
            connection.execute(statement)
        for number, file in enumerate(files):
            connection.execute("INSERT INTO files VALUES (?, ?, ?)", (number, file.path, file.key))
            rows = []
            for chunk, terms in zip(file.chunks, file.terms, strict=True):
                passage = None
                if chunk.id not in numbers:
                    passage = numbers[chunk.id] = len(distinct)
                    distinct.append((chunk, terms))
                blob = terms.astype("<i8").tobytes()
                rows.append((number, chunk.line, chunk.id, chunk.text, blob, passage))
            connection.executemany("INSERT INTO chunks VALUES (?, ?, ?, ?, ?, ?)", rows)
    return distinct


@contextmanager
def _as_os_error(path: Path) -> Iterator[None]:
    """Turn SQLite's errors about the disk (SQLITE_FULL, SQLITE_IOERR) into OSError. Raises: OSError."""
    try:
        yield
    except sqlite3.OperationalError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code not in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
            raise
        number = errno.ENOSPC if code == sqlite3.SQLITE_FULL else errno.EIO
        raise OSError(number, os.strerror(number), str(path)) from error


@contextmanager
def reading(path: Path) -> Iterator[Database]:
    """The passages of a finished index. The file is not trusted: nothing in it can run.

    Raises: InputError when it is not a file as `write_database` writes it.
    """
    try:
        address = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
        # The server opens an index in one thread and queries it in another.
        with closing(sqlite3.connect(address, uri=True, check_same_thread=False)) as connection:
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("PRAGMA cell_size_check = ON")
            # Views and triggers could run statements; exactly our tables and indices are allowed.
            found = connection.execute("SELECT name, sql FROM sqlite_master").fetchall()
            if dict(found) != _SCHEMA or len(found) != len(_SCHEMA):
                raise InputError(tr("{path}: its tables are not those of an index; build the index anew", path=path))
            yield Database(path, connection)
    except (sqlite3.Error, UnicodeDecodeError, OverflowError) as error:
        raise InputError(
            tr(
                "{path}: cannot be read ({reason}); build the index anew",
                path=path,
                reason=" ".join(str(error).split()),
            )
        ) from None


@dataclass(frozen=True)
class Database:
    """An open index file."""

    path: Path
    connection: sqlite3.Connection

    def count(self) -> int:
        """The number of distinct passages. Raises: InputError unless they are numbered 0, 1, 2, ..."""
        query = "SELECT COUNT(passage), COUNT(DISTINCT passage), MIN(passage), MAX(passage) FROM chunks"
        count, distinct, first, last = self.connection.execute(query).fetchone()
        if not count or (distinct, first, last) != (count, 0, count - 1):
            raise InputError(
                tr("{path}: its passages are not numbered one by one; build the index anew", path=self.path)
            )
        return count

    def chunk(self, passage: int) -> Chunk:
        """The passage of that number, with the first place it was found at."""
        row = self.connection.execute(f"{_SELECT} WHERE chunks.passage = ?", (passage,)).fetchone()
        return self._chunk(row)

    def ids(self) -> list[str]:
        """The id of every passage, by its number."""
        rows = self.connection.execute("SELECT id FROM chunks WHERE passage IS NOT NULL ORDER BY passage")
        return [str(id_) for (id_,) in rows]

    def file(self, path: str, key: str) -> FileChunks | None:
        """The passages of the file with this content, called `path` from now on; None when it was not indexed."""
        row = self.connection.execute("SELECT number, path FROM files WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        chunks, terms = [], []
        query = f"{_SELECT} WHERE chunks.file = ? ORDER BY chunks.rowid"
        blobs = "SELECT terms FROM chunks WHERE file = ? ORDER BY rowid"
        for found, (blob,) in zip(
            self.connection.execute(query, row[:1]), self.connection.execute(blobs, row[:1]), strict=True
        ):
            chunk = self._chunk(found)
            if not isinstance(blob, bytes) or len(blob) % 8:
                raise InputError(
                    tr("{path}: broken terms of {terms}; build the index anew", path=self.path, terms=path)
                )
            chunks.append(Chunk(chunk.id, path, chunk.line, chunk.text))
            terms.append(np.frombuffer(blob, "<i8").astype(np.int64))
        return FileChunks(path, key, chunks, terms)

    def _chunk(self, row: tuple[object, ...] | None) -> Chunk:
        match row:
            case (str(id_), str(file), int(line), str(text)):
                return Chunk(id_, file, line, text)
        raise InputError(tr("{path}: a passage is missing or broken; build the index anew", path=self.path))
