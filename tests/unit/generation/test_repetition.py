from __future__ import annotations

import mlx_loopai  # noqa: F401

# isort: split
import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_loopai.generation import repetition
from mlx_loopai.generation.decoding import Decoding
from mlx_loopai.generation.repetition import FREE_TOKENS, RepetitionGuard, held_back
from mlx_loopai.generation.session import open_session
from mlx_loopai.models.load import NANO, load_model

N_TOKENS = 8


def reference(written: list[int], weights: list[float], strength: float) -> list[float]:
    """The penalties by token, one place after another."""
    penalties = [0.0] * N_TOKENS
    for place in range(1, len(written)):
        repeated = 0.0
        for back in range(min(repetition._MAX_MATCH_TOKENS, place)):
            if written[place - 1 - back] != written[-1 - back]:
                break
            repeated += weights[written[-1 - back]]
        if repeated >= FREE_TOKENS:
            exponent = min(repeated - FREE_TOKENS, repetition._MAX_EXPONENT)
            token = written[place]
            penalties[token] = max(penalties[token], strength * repetition._BASE**exponent)
    return penalties


@given(
    st.lists(st.integers(0, N_TOKENS - 1), max_size=6).flatmap(
        lambda cycle: st.tuples(st.just(cycle), st.integers(1, 12), st.lists(st.integers(0, N_TOKENS - 1), max_size=5))
    ),
    st.lists(st.sampled_from([0.0, 1.0]), min_size=N_TOKENS, max_size=N_TOKENS),
    st.sampled_from([0.5, 1.0, 2.0]),
)
@settings(max_examples=150, deadline=None)
def test_penalties_are_those_of_the_definition(
    parts: tuple[list[int], int, list[int]], weights: list[float], strength: float
) -> None:
    cycle, times, end = parts
    written = cycle * times + end
    logits = mx.zeros((1, N_TOKENS))
    rows = mx.array([written], dtype=mx.int32).reshape(1, -1)
    found = held_back(logits, rows, mx.array(weights), mx.array([strength]))
    np.testing.assert_allclose(np.array(found)[0], -np.array(reference(written, weights, strength)), rtol=1e-4)


def test_rows_of_different_lengths_and_strengths_are_held_back_each_as_if_alone() -> None:
    rng = np.random.default_rng(5)
    answers = [rng.integers(0, N_TOKENS, 9).tolist() * times for times in (4, 1, 3)] + [[], [2]]
    weights, strengths = [1.0] * (N_TOKENS - 1) + [0.0], [0.8, 0.5, 2.0, 1.0, 1.0]
    written = np.full((len(answers), max(map(len, answers))), -1, np.int32)
    for line, answer in zip(written, answers, strict=True):
        line[len(line) - len(answer) :] = answer
    found = held_back(mx.zeros((len(answers), N_TOKENS)), mx.array(written), mx.array(weights), mx.array(strengths))
    for line, answer, strength in zip(np.array(found), answers, strengths, strict=True):
        np.testing.assert_allclose(line, -np.array(reference(answer, weights, strength)), rtol=1e-4)
    assert (np.array(found)[[0, 2]] < 0).any(axis=1).all()


def test_the_prompt_may_be_repeated() -> None:
    guard = RepetitionGuard(load_model(NANO))
    prompt = [400, 401, 402, 403, 404, 405, 406, 407, 408]
    logits = mx.zeros((1, guard.loaded.n_tokens))
    process = guard.processor(len(prompt), 1.0)
    np.testing.assert_array_equal(np.array(process(mx.array(prompt + prompt[:-1]), logits)), np.array(logits))
    guard.__dict__["weights"] = mx.ones(guard.loaded.n_tokens)
    looped = np.array(process(mx.array(prompt + prompt + prompt[:-1]), logits))[0]
    assert looped[prompt[-1]] < 0
    assert (np.delete(looped, prompt[-1]) == 0).all()


@pytest.mark.parametrize(
    ("token", "counts"),
    [
        (" 바다", True),
        ("등대지기", True),
        ("AI", True),
        ("7", True),
        ("는", False),
        ("에서", False),
        ("습니다", True),
        ("했습니다", False),
        (" 입니다", False),
        (".\n", False),
        (" ", False),
        ("“", False),
    ],
)
def test_what_counts(token: str, counts: bool) -> None:
    assert repetition._counts(token.encode()) == counts


def test_pieces_of_characters_count() -> None:
    assert repetition._counts("가".encode()[:2])


def test_a_session_guards_when_it_is_asked_to() -> None:
    session = open_session(NANO)
    from mlx_loopai.config import GenerationOptions

    ids = session.loaded.tokenizer.encode("안녕")
    assert session.request(ids, GenerationOptions(repetition_guard=0)).guard is None
    request = session.request(ids, GenerationOptions())
    assert request.guard is session.tools.guard
    process = Decoding(request, session.loaded.n_tokens).process
    logits = mx.random.normal((1, session.loaded.shape.vocab_size))
    assert process(mx.array(list(ids)), logits).shape == (1, session.loaded.n_tokens)
