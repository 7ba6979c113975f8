"""BM25 over character pairs, computed by bm25s and kept as four plain arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlx_loopai.errors import InputError
from mlx_loopai.language import tr
from mlx_loopai.retrieval.retriever import Found, best_of
from mlx_loopai.retrieval.terms import Terms, has_pairs, text_terms, with_particles

Arrays = Mapping[str, npt.NDArray[Any]]

# File stem -> dtype: the terms sorted, where each term's passages start, the passages, their weights.
DTYPES = {"terms": "<i8", "starts": "<i8", "passages": "<i4", "weights": "<f4"}


@dataclass(frozen=True)
class Bm25:
    """Lucene's BM25 (k1 = 1.5, b = 0.75) with every term's contribution to a score precomputed.

    Source: Kamphuis et al. 2020, "Which BM25 do you mean?", the variant "Lucene (accurate)"; scores and matrix are
    those of bm25s (Lu 2024, "BM25S").
    """

    arrays: Arrays
    n_passages: int

    name = "bm25"

    def retrieve(self, query: str, top: int) -> list[Found]:
        """The best passages. If all words of a query have one syllable (책, 물), they are also searched with particles.

        In a longer query that does harm: a fifth of BoolQ's questions have such a word, and R@1 fell from 0.917 to
        0.895.
        """
        asked = text_terms(query)
        scores = self.score_terms(asked) if has_pairs(asked) else None
        if scores is None or not scores.any():
            scores = self.score_terms(with_particles(asked))
        return best_of(scores, top, self.name, above=0.0)

    def score_terms(self, asked: Terms) -> npt.NDArray[np.float32]:
        """The score of every passage (N,) for a query's terms; 0 for a passage that has none of them."""
        terms = self.arrays["terms"]
        places = np.minimum(np.searchsorted(terms, asked), len(terms) - 1)
        return _model(self.arrays, self.n_passages).get_scores_from_ids(places[terms[places] == asked])


def build_bm25(passages: Sequence[Terms]) -> Arrays:
    """The arrays of `Bm25` for passages given by their terms; at least one term in all."""
    import bm25s

    vocabulary, ids = np.unique(np.concatenate(passages), return_inverse=True)
    ends = np.cumsum([len(terms) for terms in passages])
    rows = [part.tolist() for part in np.split(ids, ends[:-1])]
    model = bm25s.BM25()
    model.index((rows, {number: number for number in range(len(vocabulary))}), False, show_progress=False)
    scores = model.scores
    found = {"terms": vocabulary, "starts": scores["indptr"], "passages": scores["indices"], "weights": scores["data"]}
    return {name: np.ascontiguousarray(array, DTYPES[name]) for name, array in found.items()}


def check_bm25(arrays: Arrays, n_passages: int, where: str) -> None:
    """Check that no array points outside another. Raises: InputError naming `where`."""
    terms, starts, passages, weights = (arrays[name] for name in DTYPES)
    fits = (
        len(starts) == len(terms) + 1 > 1
        and len(passages) == len(weights) == starts[-1]
        and starts[0] == 0
        and bool((np.diff(starts) >= 0).all())
        and bool((np.diff(terms) > 0).all())
        and len(passages) > 0
        and 0 <= passages.min() <= passages.max() < n_passages
        and bool(np.isfinite(weights).all())
    )
    if not fits:
        raise InputError(tr("{where}: its term arrays contradict each other; build the index anew", where=where))


def _model(arrays: Arrays, n_passages: int) -> Any:
    import bm25s

    model = bm25s.BM25()
    model.nonoccurrence_array = None
    model.scores = {
        "data": arrays["weights"],
        "indices": arrays["passages"],
        "indptr": arrays["starts"],
        "num_docs": n_passages,
    }
    return model
