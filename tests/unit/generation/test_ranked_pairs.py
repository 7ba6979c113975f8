"""Pairs of the model's own answers: the best against the worst, and why a prompt gives none."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlx_loopai.config import SamplingOptions
from mlx_loopai.generation import ranked_pairs as module
from mlx_loopai.generation.engine import Generation
from mlx_loopai.generation.prompts import as_prompt
from mlx_loopai.generation.ranked_pairs import Drafts, Merit, ranked_pairs
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
    ],
)
def test_what_is_better(better, worse):
    assert Merit.of(*better, LENGTH) > Merit.of(*worse, LENGTH)


def test_length_alone_is_no_merit():
    assert Merit.of(GOOD, True, LENGTH) == Merit.of(LONG, True, LENGTH)


def test_the_best_and_the_worst_make_a_pair(tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    answers = [Generation(text, (1,), finished, 3) for text, finished in written]
    monkeypatch.setattr(module, "generate_batch", lambda *_: answers)
    prompts = [as_prompt(f"바다 {number}") for number in range(4)]
    found = ranked_pairs(open_session(str(tiny_model_folder)), prompts, Drafts(2, SamplingOptions(), LENGTH))
    (pair,) = found.pairs
    assert (pair.chosen.messages[-1].content, pair.rejected.messages[-1].content) == (GOOD, MIXED)
    assert pair.prompt == prompts[0].messages
    assert found.dropped == {
        "all answers are alike but for their length": 1,
        "every answer is empty": 1,
        "no answer ends, in its length and without repeating itself": 1,
    }
