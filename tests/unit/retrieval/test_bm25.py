from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_loopai.errors import InputError
from mlx_loopai.retrieval.bm25 import Bm25, build_bm25, check_bm25
from mlx_loopai.retrieval.retriever import Found, Fused, best_of
from mlx_loopai.retrieval.terms import text_terms

WORDS = ["등대", "등대지기", "바다", "바다에", "불빛이", "고양이", "a1"]
texts = st.lists(st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join), min_size=1, max_size=8)


def reference(passages: list[str], query: str) -> list[float]:
    """Lucene's BM25 as Kamphuis et al. write it, in plain Python."""
    documents = [list(text_terms(passage)) for passage in passages]
    mean = sum(map(len, documents)) / len(documents)
    scores = []
    for document in documents:
        score = 0.0
        for term in text_terms(query):
            n_with = sum(term in other for other in documents)
            idf = math.log(1 + (len(documents) - n_with + 0.5) / (n_with + 0.5))
            count = document.count(term)
            score += idf * count / (count + 1.5 * (1 - 0.75 + 0.75 * len(document) / mean))
        scores.append(score)
    return scores


def made(passages: list[str]) -> Bm25:
    arrays = build_bm25([text_terms(passage) for passage in passages])
    check_bm25(arrays, len(passages), "here")
    return Bm25(arrays, len(passages))


@settings(max_examples=30, deadline=None)
@given(texts.filter(lambda passages: any(passages)), st.lists(st.sampled_from([*WORDS, "없는"])).map(" ".join))
def test_scores_are_those_of_the_formula(passages: list[str], query: str) -> None:
    np.testing.assert_allclose(
        made(passages).score_terms(text_terms(query)), reference(passages, query), rtol=1e-5, atol=1e-6
    )


def test_only_what_matches_is_found_best_first() -> None:
    found = made(["바다에 등대", "고양이", "등대지기 등대", "등대지기 등대"]).retrieve("등대지기", 10)
    assert [hit.number for hit in found] == [2, 3, 0]
    assert found[0].score == found[1].score > found[2].score > 0
    assert [hit.ranks for hit in found] == [{"bm25": 1}, {"bm25": 2}, {"bm25": 3}]
    assert made(["바다"]).retrieve("?", 3) == made(["바다"]).retrieve("고양이", 3) == []


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=1), st.integers(1, 8))
def test_best_of_is_a_stable_sort(scores: list[float], top: int) -> None:
    expected = sorted(range(len(scores)), key=lambda number: (-scores[number], number))[:top]
    assert [found.number for found in best_of(np.array(scores), top, "x")] == expected


class Listed:
    def __init__(self, name: str, numbers: list[int]) -> None:
        self.name, self.numbers = name, numbers

    def retrieve(self, query: str, top: int) -> list[Found]:
        return [Found(number, 9.0) for number in self.numbers][:top]


def test_fusion_adds_reciprocal_ranks() -> None:
    fused = Fused([Listed("one", [4, 7]), Listed("two", [7, 5])])
    assert fused.name == "one+two"
    assert fused.retrieve("", 2) == [
        Found(7, 1 / 62 + 1 / 61, {"one": 2, "two": 1}),
        Found(4, 1 / 61, {"one": 1}),
    ]
    assert [found.number for found in fused.retrieve("", 9)] == [7, 4, 5]


@pytest.mark.parametrize(
    ("name", "place", "value"),
    [
        ("passages", 0, 2),
        ("passages", 0, -1),
        ("starts", 1, 9),
        ("starts", -1, 1),
        ("terms", 0, 2**50),
        ("weights", 0, np.nan),
    ],
)
def test_arrays_that_point_outside_are_refused(name: str, place: int, value: float) -> None:
    arrays = {key: array.copy() for key, array in build_bm25([text_terms("등대 바다"), text_terms("바다")]).items()}
    check_bm25(arrays, 2, "here")
    arrays[name][place] = value
    with pytest.raises(InputError, match="here: its term arrays"):
        check_bm25(arrays, 2, "here")


@pytest.mark.parametrize(
    ("query", "numbers"), [("책", {0, 2}), ("물", {0, 1}), ("꽃", {1}), ("책 이야기", {0, 2}), ("책 바다", {3})]
)
def test_words_of_one_syllable_find_their_forms(query: str, numbers: set[int]) -> None:
    passages = ["책을 읽었다. 물이 맑다.", "꽃은 폈다. 물과 불", "그 책의 값", "바다는 넓다."]
    assert {one.number for one in made(passages).retrieve(query, 4)} == numbers
