"""Answers that are the best of several, judged, and written again where they fail."""

from __future__ import annotations

import pytest

from mlx_loopai.generation.answers import Answer, Standard, write_answers
from mlx_loopai.generation.engine import SamplingOptions, generate_batch
from mlx_loopai.generation.ranking import rank
from mlx_loopai.generation.request import Request
from mlx_loopai.models.load import LoadedModel

HOT = SamplingOptions(temperature=1.0, max_tokens=12, seed=1)
PROMPTS = [[5, 6, 7], [9], [11, 12]]


def answers(loaded: LoadedModel, options: SamplingOptions, **settings: object) -> list[Answer]:
    requests = [Request(prompt, options, row=place) for place, prompt in enumerate(PROMPTS)]
    found = dict(write_answers(loaded, requests, **settings))  # type: ignore[arg-type]
    return [found[place] for place in range(len(PROMPTS))]


def test_the_best_of_the_drafts_is_kept(tiny: LoadedModel) -> None:
    drafts = generate_batch(tiny, [ids for ids in PROMPTS for _ in range(3)], HOT)
    for place, one in enumerate(answers(tiny, HOT, best_of=3, batch_rows=4)):
        group = drafts[3 * place : 3 * place + 3]
        assert (one.text.text, one.text.finished) in [(other.text, other.finished) for other in group]
        assert all(rank(one.text.text, one.text.finished) >= rank(other.text, other.finished) for other in group)


def test_a_failed_answer_is_written_again_with_the_next_seed(
    tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = answers(tiny, HOT)
    bad = {plain[1].text.text}
    monkeypatch.setattr(Standard, "problem", lambda self, text, quoted: "bad" if text in bad else "")
    found = answers(tiny, HOT, standard=Standard(retries=2))
    assert [(one.text.seed, one.attempts, one.problem) for one in found] == [(1, 1, ""), (2, 2, ""), (1, 1, "")]
    assert found[0] == plain[0]
    assert found[1].text == answers(tiny, HOT.model_copy(update={"seed": 2}))[1].text
    monkeypatch.setattr(Standard, "problem", lambda self, text, quoted: "bad")
    assert {(one.text.seed, one.attempts, one.problem) for one in answers(tiny, HOT, standard=Standard(retries=2))} == {
        (3, 3, "bad")
    }
    # A greedy answer would come out the same again.
    greedy = answers(tiny, HOT.model_copy(update={"temperature": 0.0}), standard=Standard(retries=2))
    assert {one.attempts for one in greedy} == {1}


def test_what_a_standard_asks() -> None:
    standard = Standard(max_removed=0.2)
    assert standard.problem("호랑이는 고개를 넘어 마을로 내려갔다.") == ""
    assert "repeats" in standard.problem("그는 걸었다. " * 8)
    assert "empty" in standard.problem(" \n")
    assert "declines (죄송하지만" in standard.problem("죄송하지만 그 요청은 도와드릴 수 없습니다.")
    mixed = "그는 slowly walked down the hill 내려갔다."
    assert "would remove" in standard.problem(mixed)
    assert standard.problem(mixed, frozenset("slowly walked down the hill".split())) == ""
