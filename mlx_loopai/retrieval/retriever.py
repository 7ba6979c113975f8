"""The protocol of a retriever, and the fusion of several retrievers into one ranking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

# Source: Cormack, Clarke, Buettcher 2009, "Reciprocal rank fusion outperforms Condorcet and individual rank learning
# methods": k = 60.
RANK_OFFSET = 60
# Only this many first passages of each retriever's list are fused.
FUSION_DEPTH = 100


@dataclass(frozen=True)
class Found:
    """A passage by its number in the index. A higher score is better; scores of different retrievers do not compare.

    ranks: name of a retriever -> the passage's rank there, from 1.
    """

    number: int
    score: float
    ranks: Mapping[str, int] = field(default_factory=dict)


class Retriever(Protocol):
    """Finds passages by a question."""

    @property
    def name(self) -> str:
        """Its name in results."""

    def retrieve(self, query: str, top: int) -> list[Found]:
        """At most `top` passages, the best first; equal scores in the order of the index."""


@dataclass(frozen=True)
class Fused:
    """Several retrievers as one: the sum over them of 1 / (RANK_OFFSET + rank).

    Source: Cormack, Clarke, Buettcher 2009, equation in section 2.
    """

    retrievers: Sequence[Retriever]

    @property
    def name(self) -> str:
        return "+".join(retriever.name for retriever in self.retrievers)

    def retrieve(self, query: str, top: int) -> list[Found]:
        ranks: dict[int, dict[str, int]] = {}
        for retriever in self.retrievers:
            for rank, found in enumerate(retriever.retrieve(query, max(top, FUSION_DEPTH)), start=1):
                ranks.setdefault(found.number, {})[retriever.name] = rank
        fused = [
            Found(number, sum(1 / (RANK_OFFSET + rank) for rank in places.values()), places)
            for number, places in ranks.items()
        ]
        return sorted(fused, key=lambda found: (-found.score, found.number))[:top]


def best_of(scores: npt.NDArray[Any], top: int, name: str, above: float = -np.inf) -> list[Found]:
    """The `top` entries of `scores` (N,) that are greater than `above`, best first, ties by number."""
    candidates = np.arange(len(scores))
    if 0 < top < len(scores):
        threshold = np.partition(scores, -top)[-top]
        candidates = np.flatnonzero(scores >= threshold)
    order = candidates[np.lexsort((candidates, -scores[candidates]))][:top]
    kept = [int(number) for number in order if scores[number] > above]
    return [Found(number, float(scores[number]), {name: rank}) for rank, number in enumerate(kept, start=1)]
