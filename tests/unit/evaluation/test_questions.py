"""Questions with accepted answers: how they are read, and how a free answer is judged."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlx_loopai.errors import InputError
from mlx_loopai.evaluation.forms import EXAMPLES
from mlx_loopai.evaluation.questions import QUESTION_JUDGE, Question, general_questions, judge_answer, read_questions


@pytest.mark.parametrize(
    ("question", "text", "right", "broken"),
    [
        (Question("수도?", ("서울",), language="ko"), "한국의 수도는 서울입니다.", True, None),
        (Question("수도?", ("서울",), language="ko"), "The capital is 서울 of course.", False, "language"),
        (Question("수도?", ("서울",), language="ko"), '{"text": ["서울입니다', False, "json"),
        (Question("수도?", ("서울",), language="ko"), "서울 " * 40, False, "loop"),
        (Question("수도?", ("서울",), language="ko"), " ", False, "empty"),
        (Question("capital?", ("Rome",), language="en"), "It is Romeo.", False, None),
        (Question("首都？", ("巴黎",), language="zh"), "法国的首都是巴黎。", True, None),
        (Question("2+3?", ("5",), "number"), "2 + 3 = 5.", True, None),
        (Question("2+3?", ("5",), "number"), "5 is not it, 6 is.", False, None),
        (Question("n?", ("1200",), "number"), "It is 1,200", True, None),
        (Question("w?", ("yes",), "exact"), "Yes.", True, None),
        (Question("w?", ("yes",), "exact"), "Yes, it is.", False, None),
        (Question("code?", ("len(xs)",), "contains"), "`n = len(xs)`", True, None),
    ],
)
def test_answers_are_judged_as_a_reader_would(question: Question, text: str, right: bool, broken: str | None) -> None:
    verdict = judge_answer(question, text)
    assert (verdict.right, verdict.broken) == (right, broken)


def first_answer(question: Question) -> str:
    if not question.form:
        return question.accepts[0]
    if question.accepts:
        return f"{question.accepts[0]}에 대한 글이다."
    sentences = {"en": "It is nice.", "zh": "这很好。"}
    return sentences.get(question.language, EXAMPLES[question.form])


def test_every_shipped_question_is_answered_by_its_own_first_value() -> None:
    shipped = general_questions()
    assert len(shipped) >= 5
    assert sum(map(len, shipped.values())) >= 200
    for kind, asked in shipped.items():
        assert all(judge_answer(question, first_answer(question)).right for question in asked), kind
        assert QUESTION_JUDGE.constant_guess(asked) < 0.4


def test_chance_is_the_best_constant_guess() -> None:
    asked = [Question("a", ("yes",)), Question("b", ("yes", "sure")), Question("c", ("no",)), Question("d", ("no!",))]
    assert QUESTION_JUDGE.constant_guess(asked) == 0.5


def test_problems_of_a_question_file_are_all_named(tmp_path: Path) -> None:
    file = tmp_path / "qa.jsonl"
    file.write_text('{"prompt": "a"}\n{"question": "b", "answer": "c"}\n{"prompt": "d", "answer": "e", "match": "x"}\n')
    with pytest.raises(InputError, match=r"qa.jsonl:1: needs(.|\n)*qa.jsonl:3: match 'x'"):
        read_questions(file)
