"""Pairs of the model's own answers: the best against the worst, and why a prompt gives none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_loopai.config import SamplingOptions
from mlx_loopai.data.pairs import MadePairs
from mlx_loopai.evaluation import ranked_pairs as module
from mlx_loopai.evaluation.ranked_pairs import Drafts, Merit, Prefers, ranked_pairs
from mlx_loopai.generation.engine import Generation
from mlx_loopai.generation.prompts import as_prompt
from mlx_loopai.generation.session import open_session

LENGTH = (5, 200)
GOOD, MIXED, LONG = "바다는 고요했다.", "바다는 very 고요했다.", "바다는 고요했다. 파도가 낮게 밀려왔다."


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ((GOOD, True), (MIXED, True)),
        ((GOOD, True), (GOOD, False)),
        ((GOOD, True), ("네.", True)),
        ((MIXED, True), (GOOD * 60, True)),
        ((MIXED, True), ("바다는 고요\ufffd했다.", True)),
    ],
)
def test_what_is_better(better, worse):
    assert Merit.of(*better, LENGTH) > Merit.of(*worse, LENGTH)


def test_length_alone_is_no_merit():
    assert Merit.of(GOOD, True, LENGTH) == Merit.of(LONG, True, LENGTH)


def test_the_genre_counts_where_a_prompt_names_one() -> None:
    dragon, plain = "용이 마법의 왕국을 지켰다.", "나는 산책을 하며 커피를 마셨다."
    assert Merit.of(dragon, True, LENGTH, "판타지") > Merit.of(plain, True, LENGTH, "판타지")
    assert Merit.of(dragon, True, LENGTH) == Merit.of(plain, True, LENGTH)


@pytest.mark.parametrize(
    ("better", "worse", "clearly"),
    [
        ({"purity": 1.0}, {"purity": 0.9}, True),
        ({"purity": 0.95}, {"purity": 0.99}, False),
        ({"purity": 0.99, "finished": True}, {"purity": 1.0, "finished": False}, True),
        ({"purity": 1.0, "finished": False}, {"purity": 0.99, "finished": True}, False),
        ({"variety": 1.0}, {"variety": 0.8}, True),
        ({}, {}, False),
    ],
)
def test_a_difference_below_the_gap_is_none(better: dict, worse: dict, clearly: bool) -> None:
    usual = Merit(
        does_not_loop=True, is_whole=True, purity=1.0, in_range=True, finished=True, genre_fit=0.0, variety=1.0
    )
    assert replace(usual, **better).beats(replace(usual, **worse), 0.05) is clearly


def pairs_of(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    written: list[tuple[str, bool]],
    best_of: int,
    prefers: Prefers | None = None,
    likely: list[float] | None = None,
) -> MadePairs:
    answers = [Generation(text, (1,), finished, 3) for text, finished in written]
    monkeypatch.setattr(module, "generate_batch", lambda *_: answers)
    monkeypatch.setattr(module, "_likely", lambda *_: likely or [-1.0] * len(written))
    prompts = [as_prompt(f"바다 {number}") for number in range(len(written) // best_of)]
    return ranked_pairs(open_session(str(folder)), prompts, Drafts(best_of, SamplingOptions(), LENGTH, 0.05), prefers)


def said(found: MadePairs) -> list[tuple[str, str]]:
    return [(pair.chosen.messages[-1].content, pair.rejected.messages[-1].content) for pair in found.pairs]


def test_the_better_and_the_worse_answer_make_a_pair(tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = [
        (GOOD, True),
        (MIXED, True),
        (GOOD, True),
        (LONG, True),
        ("", True),
        (" ", False),
        (GOOD, False),
        ("네", True),
    ]
    found = pairs_of(tiny_model_folder, monkeypatch, written, best_of=2)
    assert said(found) == [(GOOD, MIXED)]
    assert found.pairs[0].prompt == as_prompt("바다 0").messages
    assert found.dropped == {
        "no good answer is clearly better but for its length": 1,
        "every answer is empty": 1,
        "no answer ends, in its length and without repeating itself": 1,
    }


def test_the_better_half_is_paired_with_the_worse_half(
    tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worse = "바다는 very very 고요했다."
    written = [(GOOD, True), (worse, True), (MIXED, True), (LONG, True), (GOOD, True)]
    found = pairs_of(tiny_model_folder, monkeypatch, written, best_of=5)
    # Two drafts are the same, so the middle one of the four others has no partner.
    assert said(found) == [(GOOD, worse), (LONG, MIXED)]


def test_a_judge_says_which_is_better_but_a_bad_answer_is_no_example(
    tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def prefers(prompt: str, first: str, second: str) -> bool | None:
        asked.append(prompt)
        return {"바다 0": False, "바다 1": False, "바다 2": None}[prompt]

    written = [(GOOD, True), (MIXED, True), (GOOD, True), ("네", True), (GOOD, True), (MIXED, True)]
    found = pairs_of(tiny_model_folder, monkeypatch, written, best_of=2, prefers=prefers)
    assert said(found) == [(MIXED, GOOD)]
    assert found.dropped == {"no good answer is clearly better but for its length": 2}
    assert asked == ["바다 0", "바다 1", "바다 2"]


def test_an_answer_off_its_rails_is_no_example_however_clean(
    tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = [(GOOD, True), (MIXED, True), (LONG, True), (MIXED, True)]
    found = pairs_of(tiny_model_folder, monkeypatch, written, best_of=2, likely=[-4.0, -0.6, -1.0, -0.6])
    assert said(found) == [(LONG, MIXED)]
    # Beside another good answer too, whatever the worse one of its own pair is.
    worse = "바다는 very very 고요했다."
    found = pairs_of(
        tiny_model_folder, monkeypatch, [(GOOD, True), (LONG, True), (MIXED, True), (worse, True)], best_of=4,
        likely=[-4.0, -0.5, -5.0, -5.0],
    )  # fmt: skip
    assert said(found) == [(LONG, MIXED)]


def test_how_likely_an_answer_is_to_its_own_model(tiny_model_folder: Path) -> None:
    session = open_session(str(tiny_model_folder))
    prompts = [session.prompt_ids(as_prompt("바다")), session.prompt_ids(as_prompt("산과 바다"))]
    written = [Generation("x", tokens, True, 1) for tokens in ((7, 9, 4), (), (5,))]
    found = module._likely(session, [prompts[0], prompts[0], prompts[1]], written)
    expected = []
    for prompt, answer in ((prompts[0], (7, 9, 4)), (prompts[1], (5,))):
        logits = np.array(session.loaded.model(mx.array([[*prompt, *answer]]))[0].astype(mx.float32), np.float64)
        scores = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        expected.append(np.mean([scores[len(prompt) - 1 + place, token] for place, token in enumerate(answer)]))
    assert found == pytest.approx([expected[0], 0.0, expected[1]], rel=1e-4)
