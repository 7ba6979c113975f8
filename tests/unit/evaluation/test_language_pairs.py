"""Pairs of an answer in Korean only and a free one, and why a prompt gives none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from mlx_loopai.config import GenerationOptions
from mlx_loopai.data.pairs import MadePairs
from mlx_loopai.evaluation import language_pairs as module
from mlx_loopai.evaluation.language_pairs import OwnAnswers, language_pairs
from mlx_loopai.generation.answer_stream import Text
from mlx_loopai.generation.answers import Answer
from mlx_loopai.generation.prompts import as_prompt
from mlx_loopai.generation.request import Request
from mlx_loopai.generation.session import open_session

KOREAN = "바다는 고요했다. 파도가 낮게 밀려왔다."
MIXED, ENGLISH = "바다는 very 고요했다.", "The sea was calm. Low waves came in."
NO_EXAMPLE = "no answer in Korean only that is whole, in its length, and repeats neither itself nor the request"
NO_FOREIGN = "no free answer has foreign words that the request does not hold"


def written(text: str, finished: bool = True) -> Text:
    return Text(
        text, text, finished, prompt_tokens=1, tokens=(1,), seconds=0.0, seed=0, scripts="", masked_mass=0.0,
        argmax_masked=0.0,
    )  # fmt: skip


def pairs_of(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    korean: str | Text,
    *free: str | Text,
    prompt: str = "바다를 묘사해 주세요.",
) -> MadePairs:
    """The pairs of one prompt to which the model answers so."""

    def answers(_: Any, requests: Sequence[Request], standard: Any) -> Iterator[tuple[int, Answer]]:
        said = [korean] if standard else free
        assert len(said) == len(requests)
        for place, one in reversed(list(enumerate(said))):  # they end in any order
            text = one if isinstance(one, Text) else written(one)
            yield place, Answer(text, problem=standard.problem(text.written) if standard else "")

    monkeypatch.setattr(module, "write_answers", answers)
    wanted = OwnAnswers(len(free), GenerationOptions(max_tokens=8), (10, 200))
    return language_pairs(open_session(str(folder)), [as_prompt(prompt)], wanted)


def said(found: MadePairs) -> list[tuple[str, str]]:
    return [(pair.chosen.messages[-1].content, pair.rejected.messages[-1].content) for pair in found.pairs]


def test_the_most_foreign_free_answer_is_the_rejected_one(
    tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = pairs_of(tiny_model_folder, monkeypatch, KOREAN, MIXED, ENGLISH, KOREAN)
    assert said(found) == [(KOREAN, ENGLISH)]
    assert found.dropped == {}
    assert found.pairs[0].prompt == as_prompt("바다를 묘사해 주세요.").messages


def test_answers_that_were_cut_off_end_with_a_whole_sentence(
    tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    korean = written("바다는 아주 고요했다.\n2. 파도가 낮", finished=False)
    free = written("The sea was calm. Low wav", finished=False)
    assert said(pairs_of(tiny_model_folder, monkeypatch, korean, free)) == [
        ("바다는 아주 고요했다.", "The sea was calm.")
    ]


@pytest.mark.parametrize(
    ("korean", "free", "reason"),
    [
        (KOREAN, KOREAN, NO_FOREIGN),
        (KOREAN, "바다는 3월에 고요했다.", NO_FOREIGN),
        (KOREAN, written("The sea was ca", finished=False), NO_FOREIGN),
        (MIXED, ENGLISH, NO_EXAMPLE),
        ("고요했다.", ENGLISH, NO_EXAMPLE),
        (KOREAN * 10, ENGLISH, NO_EXAMPLE),
        (written("바다는 고요했고 파도가 낮", finished=False), ENGLISH, NO_EXAMPLE),
        ("죄송합니다. 그 요청에는 답변을 드릴 수 없습니다.", ENGLISH, NO_EXAMPLE),
        ("바다를 묘사해 주세요.", ENGLISH, NO_EXAMPLE),
        ("바다는 고요한 바다는 고요한 바다는 고요한 바다이다.", ENGLISH, NO_EXAMPLE),
    ],
)
def test_why_a_prompt_gives_no_pair(
    tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch, korean: str | Text, free: str | Text, reason: str
) -> None:
    found = pairs_of(tiny_model_folder, monkeypatch, korean, free)
    assert (found.pairs, found.dropped) == ((), {reason: 1})


def test_words_that_the_request_holds_are_no_fault(tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = pairs_of(tiny_model_folder, monkeypatch, KOREAN, MIXED, prompt="very를 써서 바다를 묘사해 주세요.")
    assert found.dropped == {NO_FOREIGN: 1}
    english = "Reply in Korean: is the sea very calm?"
    assert said(pairs_of(tiny_model_folder, monkeypatch, KOREAN, MIXED, prompt=english)) == [(KOREAN, MIXED)]


@pytest.mark.parametrize("prompt", ["바다를 영어로 묘사해 주세요.", "바다를 그리는 코드", "Translate into Korean: sea"])
def test_a_request_for_another_language_or_code_is_left_out(
    tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch, prompt: str
) -> None:
    monkeypatch.setattr(module, "write_answers", lambda *_, **__: iter(()))
    wanted = OwnAnswers(1, GenerationOptions(max_tokens=8), (10, 200))
    found = language_pairs(open_session(str(tiny_model_folder)), [as_prompt(prompt)], wanted)
    assert (found.pairs, found.dropped) == ((), {"the request names another language, or code": 1})
