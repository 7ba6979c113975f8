"""Finds passages by the cosine similarity of their vectors with the question's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlx_loopai.retrieval.chunks import Chunk
from mlx_loopai.retrieval.retriever import Found, best_of

if TYPE_CHECKING:
    from mlx_loopai.models.embedder import Embedder, Vectors

# Passages embedded between two calls of `on_embedded`: few enough for a smooth progress bar.
_SLAB = 256


@dataclass(frozen=True)
class Dense:
    """Unit vectors (N, D) of the passages; `embed` gives the vector (D,) of a question."""

    vectors: Vectors
    embed: Callable[[str], Vectors]

    name = "dense"

    def retrieve(self, query: str, top: int) -> list[Found]:
        scores = self.vectors @ self.embed(query)
        return best_of(np.nan_to_num(scores, nan=-1.0), top, self.name)


def embed_chunks(
    chunks: Sequence[Chunk],
    embedder: Embedder,
    known: Mapping[str, Vectors],
    on_embedded: Callable[[int], None] = lambda count: None,
) -> Vectors:
    """The vectors (N, D) of `chunks`; those that `known` has by id are not computed again.

    `on_embedded` is called with how many more are ready.
    """
    vectors = np.zeros((len(chunks), embedder.dims), np.float32)
    missing: list[int] = []
    for number, chunk in enumerate(chunks):
        if chunk.id in known:
            vectors[number] = known[chunk.id]
        else:
            missing.append(number)
    on_embedded(len(chunks) - len(missing))
    for start in range(0, len(missing), _SLAB):
        slab = missing[start : start + _SLAB]
        vectors[slab] = embedder.passages([chunks[number].text for number in slab], on_embedded)
    return vectors
