"""Builds an index of files, and answers questions from it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlx_loopai.errors import InputError
from mlx_loopai.language import tr
from mlx_loopai.retrieval.bm25 import DTYPES, Bm25, build_bm25, check_bm25
from mlx_loopai.retrieval.chroma import Chroma, ChromaDense, open_chroma
from mlx_loopai.retrieval.chunks import DEFAULT_CHARS, ROW_ENDINGS, Chunk, read_chunks
from mlx_loopai.retrieval.database import Database, FileChunks, reading, write_database
from mlx_loopai.retrieval.dense import Dense, embed_chunks
from mlx_loopai.retrieval.retriever import Found, Fused, Retriever
from mlx_loopai.retrieval.store import (
    DATABASE,
    MANIFEST,
    VECTORS,
    Manifest,
    check_files,
    locked,
    read_array,
    read_manifest,
    replace_data,
)
from mlx_loopai.retrieval.terms import text_terms

if TYPE_CHECKING:
    from mlx_loopai.models.embedder import Embedder, Vectors

# Part of every file's key, so that passages cut by an older version are not used again. Raise it with any change to the
# cutting or the terms.
_CUTTING = "sentences-1, pairs-1"


@dataclass(frozen=True)
class Hit:
    """A passage that was found. ranks: name of a retriever -> the passage's rank there, from 1."""

    chunk: Chunk
    score: float
    ranks: dict[str, int]


@dataclass(frozen=True)
class Built:
    """The result of a build. reused: how many of the files had not changed, so that they were not cut again."""

    manifest: Manifest
    files: int
    reused: int


@dataclass(frozen=True)
class Vectorising:
    """Where an index keeps its vectors: in its folder, in Chroma there, or on the Chroma server at `chroma_url`.

    `on_embedded` is called with how many more passages have their vector.
    """

    embedder: Embedder
    in_chroma: bool = False
    chroma_url: str | None = None
    on_embedded: Callable[[int], None] = lambda count: None


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
def open_index(folder: Path, chroma_url: str | None = None, by_meaning: bool = True) -> Iterator[Index]:
    """The index in `folder`; with vectors its embedder is opened, too. `chroma_url`: the server that has them.

    by_meaning: False searches by words alone, even if there are vectors, so that no model runs. The server's address is
    never taken from the index: a query must not be sent to an address from somebody else's folder.
    Raises: InputError when there is no index, it is damaged, or its embedder is now another model.
    """
    manifest = read_manifest(folder)
    while True:
        with ExitStack() as files:
            try:
                index = _open(files, folder, manifest, chroma_url, by_meaning)
            except (InputError, OSError):
                # A build that ended meanwhile has removed the files that it replaced.
                newer = read_manifest(folder)
                if newer.data == manifest.data:
                    raise
                manifest = newer
                continue
            yield index
            return


def _open(files: ExitStack, folder: Path, manifest: Manifest, chroma_url: str | None, by_meaning: bool) -> Index:
    """The index of a manifest, whose open `files` stay readable when a build removes them; the rest as `open_index`."""
    data = check_files(folder, manifest)
    database = files.enter_context(reading(data / DATABASE))
    if database.count() != manifest.passages:
        raise InputError(
            tr(
                "{data}: does not hold its {passages} passages; build the index anew",
                data=data / DATABASE,
                passages=manifest.passages,
            )
        )
    arrays = {name: read_array(data / f"{name}.npy", dtype) for name, dtype in DTYPES.items()}
    check_bm25(arrays, manifest.passages, str(data))
    retriever: Retriever = Bm25(arrays, manifest.passages)
    if manifest.embedder is not None and by_meaning:
        retriever = Fused([retriever, _dense(folder, manifest, chroma_url)])
    return Index(folder, manifest, database, retriever)


def _dense(folder: Path, manifest: Manifest, chroma_url: str | None) -> Retriever:
    from mlx_loopai.models.embedder import open_embedder

    made_by = manifest.embedder
    assert made_by is not None
    embedder = open_embedder(made_by.model)
    if (embedder.base_hash, embedder.dims) != (made_by.base_hash, made_by.dims):
        raise InputError(
            tr(
                "{model}: is not the model that made the vectors of {folder}; build the index again",
                model=made_by.model,
                folder=folder,
            )
        )
    if manifest.vectors == "file":
        vectors = read_array(folder / manifest.data / VECTORS, "<f4", (made_by.dims,))
        if len(vectors) != manifest.passages:
            raise InputError(
                tr("{folder}: does not have one vector for each passage; build the index anew", folder=folder)
            )
        return Dense(vectors, embedder.query)
    chroma = _chroma(folder, manifest, chroma_url)
    return ChromaDense(chroma, manifest.data, manifest.passages, embedder.query)


def _chroma(folder: Path, manifest: Manifest, chroma_url: str | None) -> Chroma:
    if manifest.vectors == "chroma-server" and chroma_url is None:
        raise InputError(
            tr("`index` {folder}: its vectors are on a Chroma server; name it with `chroma_url` URL", folder=folder)
        )
    return open_chroma(folder, chroma_url if manifest.vectors == "chroma-server" else None)


def build_index(
    files: Sequence[Path],
    folder: Path,
    chunk_chars: int = DEFAULT_CHARS,
    vectors: Vectorising | None = None,
    on_file: Callable[[], None] = lambda: None,
    on_damage: Callable[[str], None] = lambda reason: None,
) -> Built:
    """Make `folder` the index of exactly `files`. Unchanged files and passages are taken from the index that is there.

    `on_file` is called after each file, `on_damage` when the present index cannot be read and is made anew.
    Raises: InputError when a file cannot be read or all are empty; the present index stays.
    """
    with locked(folder), _previous(folder, on_damage) as previous:
        read: list[FileChunks] = []
        reused = 0
        for path in dict.fromkeys(files):
            key = _key(path, chunk_chars)
            known = previous.database.file(str(path), key) if previous else None
            reused += known is not None
            read.append(known or _read(path, key, chunk_chars))
            on_file()
        if not any(file.chunks for file in read):
            raise InputError(
                tr("{files}: no text to index; give files with letters in them", files=", ".join(map(str, files)))
            )
        chroma = open_chroma(folder, vectors.chroma_url) if vectors and vectors.in_chroma else None
        manifest = replace_data(folder, lambda data: _write(data, read, chunk_chars, vectors, chroma, previous))
        if chroma and previous:
            chroma.drop(previous.manifest.data)
    return Built(manifest, len(read), reused)


@dataclass(frozen=True)
class _Previous:
    """The index that a build replaces."""

    folder: Path
    manifest: Manifest
    database: Database

    def vectors(self, embedder: Embedder, chroma: Chroma | None) -> dict[str, Vectors]:
        """The vectors by passage id, if `embedder` made them and they are stored where the new ones go."""
        made_by = self.manifest.embedder
        if made_by is None or (made_by.base_hash, made_by.dims) != (embedder.base_hash, embedder.dims):
            return {}
        ids = self.database.ids()
        if chroma is not None:
            return chroma.read(self.manifest.data, ids)
        if self.manifest.vectors != "file":
            return {}
        rows = read_array(self.folder / self.manifest.data / VECTORS, "<f4", (embedder.dims,))
        return dict(zip(ids, rows, strict=False))


@contextmanager
def _previous(folder: Path, on_damage: Callable[[str], None]) -> Iterator[_Previous | None]:
    """The present index, if there is one and it is intact."""
    if not (folder / MANIFEST).exists():
        yield None
        return
    try:
        manifest = read_manifest(folder)
        data = check_files(folder, manifest)
    except InputError as error:
        on_damage(str(error))
        yield None
        return
    with reading(data / DATABASE) as database:
        yield _Previous(folder, manifest, database)


def _key(path: Path, chunk_chars: int) -> str:
    """Identifies a file's content and how it is cut."""
    try:
        with path.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
    except IsADirectoryError:
        raise InputError(tr("{path}: is a folder; give the files in it", path=path)) from None
    except OSError as error:
        raise InputError(tr("{path}: {reason}; check the path", path=path, reason=error.strerror)) from None
    ending = path.suffix.lower() if path.suffix.lower() in ROW_ENDINGS else "text"
    return f"{content}, {ending}, {chunk_chars}, {_CUTTING}"


def _read(path: Path, key: str, chunk_chars: int) -> FileChunks:
    chunks = read_chunks(path, chunk_chars)
    return FileChunks(str(path), key, chunks, [text_terms(chunk.text) for chunk in chunks])


def _write(
    data: Path,
    files: Sequence[FileChunks],
    chunk_chars: int,
    vectors: Vectorising | None,
    chroma: Chroma | None,
    previous: _Previous | None,
) -> dict[str, Any]:
    distinct = write_database(data / DATABASE, files)
    for name, array in build_bm25([terms for _, terms in distinct]).items():
        np.save(data / f"{name}.npy", array, allow_pickle=False)
    total = sum(len(file.chunks) for file in files)
    found = {"chunk_chars": chunk_chars, "passages": len(distinct), "duplicates": total - len(distinct)}
    if vectors is None:
        return found
    embedder, chunks = vectors.embedder, [chunk for chunk, _ in distinct]
    known = previous.vectors(embedder, chroma) if previous else {}
    made = embed_chunks(chunks, embedder, known, vectors.on_embedded)
    if chroma is None:
        np.save(data / VECTORS, made, allow_pickle=False)
    else:
        chroma.write(data.name, chunks, made)
    named = {"model": embedder.model, "base_hash": embedder.base_hash, "dims": embedder.dims}
    return {**found, "embedder": named, "vectors": chroma.kind if chroma else "file"}
