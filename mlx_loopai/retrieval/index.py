"""Builds an index of files, and answers questions from it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlx_loopai.errors import InputError
from mlx_loopai.retrieval.bm25 import DTYPES, Bm25, build_bm25, check_bm25
from mlx_loopai.retrieval.chunks import DEFAULT_CHARS, ROW_ENDINGS, Chunk, read_chunks
from mlx_loopai.retrieval.database import Database, FileChunks, reading, write_database
from mlx_loopai.retrieval.retriever import Found, Retriever
from mlx_loopai.retrieval.store import (
    DATABASE,
    MANIFEST,
    Manifest,
    check_files,
    locked,
    read_array,
    read_manifest,
    replace_data,
)
from mlx_loopai.retrieval.terms import text_terms

# Part of every file's key: what another version of the cutting or the terms made is not used again.
_CUTTING = "sentences-1, pairs-1"


@dataclass(frozen=True)
class Hit:
    """A passage that was found. `ranks`: the finder's name -> its place there, from 1."""

    chunk: Chunk
    score: float
    ranks: dict[str, int]


@dataclass(frozen=True)
class Built:
    """What a build did. `reused` files had not changed and were neither cut nor tokenised again."""

    manifest: Manifest
    files: int
    reused: int


@dataclass(frozen=True)
class Index:
    """An open index."""

    folder: Path
    manifest: Manifest
    database: Database
    retriever: Retriever

    def search(self, query: str, top: int) -> list[Hit]:
        """At most `top` passages, the best first; none when nothing matches."""
        return [self._hit(found) for found in self.retriever.retrieve(query, top)]

    def _hit(self, found: Found) -> Hit:
        return Hit(self.database.chunk(found.number), found.score, dict(found.ranks))


@contextmanager
def open_index(folder: Path) -> Iterator[Index]:
    """The index in `folder`. Raises: InputError when there is none or it is damaged."""
    manifest = read_manifest(folder)
    data = check_files(folder, manifest)
    with reading(data / DATABASE) as database:
        if database.count() != manifest.passages:
            raise InputError(
                f"{data / DATABASE}: not the number of passages that {MANIFEST} says; build the index anew"
            )
        arrays = {name: read_array(data / f"{name}.npy", dtype) for name, dtype in DTYPES.items()}
        check_bm25(arrays, manifest.passages, str(data))
        yield Index(folder, manifest, database, Bm25(arrays, manifest.passages))


def build_index(
    files: Sequence[Path],
    folder: Path,
    chunk_chars: int = DEFAULT_CHARS,
    on_file: Callable[[], None] = lambda: None,
    on_damage: Callable[[str], None] = lambda reason: None,
) -> Built:
    """Make `folder` the index of exactly `files`; what it holds of unchanged files is used again.

    `on_file` is called after each file, `on_damage` when the index that is there cannot be read and is made anew.
    Raises: InputError when a file cannot be read or nothing is in them; the index that was there stays.
    """
    with locked(folder), _previous(folder, on_damage) as previous:
        read: list[FileChunks] = []
        reused = 0
        for path in dict.fromkeys(files):
            key = _key(path, chunk_chars)
            known = previous.file(str(path), key) if previous else None
            reused += known is not None
            read.append(known or _read(path, key, chunk_chars))
            on_file()
        if not any(file.chunks for file in read):
            raise InputError(f"{', '.join(map(str, files))}: no text to index; give files with letters in them")
        manifest = replace_data(folder, lambda data: _write(data, read, chunk_chars))
    return Built(manifest, len(read), reused)


@contextmanager
def _previous(folder: Path, on_damage: Callable[[str], None]) -> Iterator[Database | None]:
    """The passages of the index that is there, if one is and it is whole."""
    try:
        data = check_files(folder, read_manifest(folder)) if (folder / MANIFEST).exists() else None
    except InputError as error:
        on_damage(str(error))
        data = None
    with reading(data / DATABASE) if data else nullcontext() as database:
        yield database


def _key(path: Path, chunk_chars: int) -> str:
    """Identifies a file's content and how it is cut."""
    try:
        with path.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder; give the files in it") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; check the path") from None
    ending = path.suffix.lower() if path.suffix.lower() in ROW_ENDINGS else "text"
    return f"{content}, {ending}, {chunk_chars}, {_CUTTING}"


def _read(path: Path, key: str, chunk_chars: int) -> FileChunks:
    chunks = read_chunks(path, chunk_chars)
    return FileChunks(str(path), key, chunks, [text_terms(chunk.text) for chunk in chunks])


def _write(data: Path, files: Sequence[FileChunks], chunk_chars: int) -> dict[str, Any]:
    distinct = write_database(data / DATABASE, files)
    for name, array in build_bm25([terms for _, terms in distinct]).items():
        np.save(data / f"{name}.npy", array, allow_pickle=False)
    total = sum(len(file.chunks) for file in files)
    return {"chunk_chars": chunk_chars, "passages": len(distinct), "duplicates": total - len(distinct)}
