"""Keeps vectors in Chroma: in a folder of the index, or on a server.

Texts and places are stored there, too, so that other programs can read the collection. An index has one collection,
named after its data folder. A build fills a new collection before the manifest names it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import numpy as np

from mlx_loopai.errors import InputError, LoopaiError, install_command
from mlx_loopai.language import tr
from mlx_loopai.retrieval.chunks import Chunk
from mlx_loopai.retrieval.retriever import Found

if TYPE_CHECKING:
    from mlx_loopai.models.embedder import Vectors

FOLDER = "chroma"
_DEFAULT_PORTS = {"http": 8000, "https": 443}
_MOST_IN_A_REQUEST = 1000


@dataclass(frozen=True)
class Chroma:
    """A Chroma database. `place` names it in errors; `client` is chromadb's."""

    client: Any
    kind: Literal["chroma", "chroma-server"]
    place: str

    def write(self, name: str, chunks: Sequence[Chunk], vectors: Vectors) -> None:
        """Make the collection `name`. Raises: LoopaiError when Chroma fails; then the collection is removed again."""
        with self._explained():
            collection = self.client.create_collection(_collection(name), metadata={"hnsw:space": "cosine"})
        try:
            with self._explained():
                for part in self._parts(len(chunks)):
                    collection.add(
                        ids=[chunk.id for chunk in chunks[part]],
                        embeddings=vectors[part].tolist(),
                        documents=[chunk.text for chunk in chunks[part]],
                        metadatas=[
                            {"file": chunk.file, "line": chunk.line, "passage": number}
                            for number, chunk in enumerate(chunks[part], start=part.start)
                        ],
                    )
        except BaseException:
            self.drop(name)
            raise

    def read(self, name: str, ids: Sequence[str]) -> dict[str, Vectors]:
        """The vectors that the collection `name` has for `ids`; {} without such a collection."""
        found: dict[str, Vectors] = {}
        with self._explained():
            if _collection(name) not in [collection.name for collection in self.client.list_collections()]:
                return {}
            collection = self.client.get_collection(_collection(name))
            for part in self._parts(len(ids)):
                rows = collection.get(ids=list(ids[part]), include=["embeddings"])
                vectors = np.asarray(rows["embeddings"], np.float32)
                found |= dict(zip(rows["ids"], vectors, strict=True))
        return found

    def drop(self, name: str) -> None:
        """Remove the collection `name` if possible; failing is harmless, since nothing reads a stale collection."""
        try:
            self.client.delete_collection(_collection(name))
        except Exception:  # chromadb raises errors of its own, of its server's and of its HTTP library
            return

    def find(self, name: str, vector: Vectors, top: int, n_passages: int) -> list[tuple[int, float]]:
        """Number and cosine of the `top` passages nearest to `vector` (D,)."""
        with self._explained():
            collection = self.client.get_collection(_collection(name))
            found = collection.query(
                query_embeddings=[vector.tolist()], n_results=min(top, n_passages), include=["metadatas", "distances"]
            )
            rows = list(zip(found["metadatas"][0], found["distances"][0], strict=True))
        numbers = [(row.get("passage"), 1 - float(distance)) for row, distance in rows]
        if not all(isinstance(number, int) and 0 <= number < n_passages for number, _ in numbers):
            raise InputError(
                tr(
                    "{place}: its collection {collection} is not this index's; build the index anew",
                    place=self.place,
                    collection=_collection(name),
                )
            )
        return [(number, score) for number, score in numbers if math.isfinite(score)]

    def _parts(self, count: int) -> Iterator[slice]:
        step = min(_MOST_IN_A_REQUEST, self.client.get_max_batch_size())
        return (slice(start, start + step) for start in range(0, count, step))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except LoopaiError:
            raise
        except Exception as error:  # see `drop`
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise LoopaiError(
                tr(
                    "{place}: Chroma failed ({reason}); check that it runs, then build again",
                    place=self.place,
                    reason=reason,
                )
            ) from None


@dataclass(frozen=True)
class ChromaDense:
    """A retriever over the vectors of the collection `name`."""

    chroma: Chroma
    name_of_data: str
    n_passages: int
    embed: Callable[[str], Vectors]

    name = "dense"

    def retrieve(self, query: str, top: int) -> list[Found]:
        found = self.chroma.find(self.name_of_data, self.embed(query), top, self.n_passages)
        ordered = sorted(found, key=lambda pair: (-pair[1], pair[0]))
        return [Found(number, score, {self.name: rank}) for rank, (number, score) in enumerate(ordered, start=1)]


def open_chroma(index: Path, url: str | None) -> Chroma:
    """Chroma in the folder of `index`, or on the server at `url`.

    Raises: InputError without chromadb or for a wrong address, LoopaiError when the server does not answer.
    """
    try:
        import chromadb
        from chromadb.config import Settings
    except ImportError:
        raise InputError(tr("Chroma is not installed; {install}", install=install_command("rag"))) from None
    settings = Settings(anonymized_telemetry=False)
    if url is None:
        return Chroma(chromadb.PersistentClient(str(index / FOLDER), settings), "chroma", str(index / FOLDER))
    host, port, ssl = server_address(url)
    try:
        client = chromadb.HttpClient(host, port, ssl, settings=settings)
    except Exception as error:  # see `Chroma.drop`
        reason = " ".join(str(error).split())[:200]
        raise LoopaiError(
            tr(
                "`chroma_url` {url}: no Chroma server answers there ({reason}); start it: chroma run",
                url=url,
                reason=reason,
            )
        ) from None
    return Chroma(client, "chroma-server", url)


def server_address(url: str) -> tuple[str, int, bool]:
    """(host, port, whether TLS is used). Raises: InputError for a URL other than http(s)://HOST[:PORT]."""
    wrong = InputError(
        tr("`chroma_url` {url}: not an address of a server; write it like http://localhost:8000", url=url)
    )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise wrong from None
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or parts.path.strip("/") or parts.query:
        raise wrong
    return parts.hostname, port or _DEFAULT_PORTS[parts.scheme], parts.scheme == "https"


def _collection(name: str) -> str:
    return f"mlx-loopai-{name}"
