"""Answers in and out of the form that was asked for."""

from __future__ import annotations

import pytest

from mlx_loopai.evaluation.forms import EXAMPLES, FORMS, holds_form
from mlx_loopai.evaluation.questions import QUESTION_JUDGE, general_questions, judge_answer

WRONG = {
    "one_word": ["An apple is a fruit.", "사과, 배", "사과\n배", ""],
    "three_items": [
        "사과, 배",
        "사과, 배, 감, 귤",
        "과일의 예는 다음과 같이 아주 많습니다: 사과, 배, 감",
        "1. a\n2. b\n3. c",
    ],
    "three_lines": ["1. 사과\n2. 배", "사과, 배, 감", "1. a\n2. b\n3. c\n4. d"],
    "json": ["사과", '{"fruit": "apple"}', '["name"]', '{"name": "사과"} 입니다.', "[" * 100_000],
    "sentence": ["사과는 달다. 배도 달다.", "사과는\n달다.", '{"text": "사과는 달다."}'],
    "prose": ["봄비가 내렸", '{"text": ["봄비가 내렸다."]}', "The rain was warm.", "봄비 in the morning was warm."],
}


def test_every_form_has_an_example_of_its_own_form() -> None:
    assert EXAMPLES.keys() == FORMS.keys()
    assert all(holds_form(form, example) for form, example in EXAMPLES.items())


@pytest.mark.parametrize(("form", "text"), [(form, text) for form, texts in WRONG.items() for text in texts])
def test_other_forms_are_told_apart(form: str, text: str) -> None:
    assert not holds_form(form, text)


@pytest.mark.parametrize("text", ['```json\n{"name": "사과"}\n```', '{"name": "apple", "kind": "fruit"}'])
def test_json_may_be_fenced_and_hold_more(text: str) -> None:
    assert holds_form("json", text)


def test_the_general_suite_is_large_enough_to_tell_models_apart() -> None:
    questions = general_questions()
    assert sum(map(len, questions.values())) >= 1200
    assert {kind for kind, items in questions.items() if len(items) < 150} == set()
    prompts = [item.prompt for items in questions.values() for item in items]
    assert len(set(prompts)) == len(prompts)


@pytest.mark.parametrize("kind", sorted(general_questions()))
def test_no_constant_answer_gets_far(kind: str) -> None:
    assert QUESTION_JUDGE.constant_guess(general_questions()[kind]) <= 0.35


def test_json_is_right_only_where_it_was_asked_for() -> None:
    forms = general_questions()["forms"]
    right = [judge_answer(item, EXAMPLES["json"]).right for item in forms]
    assert right == [item.form == "json" for item in forms]


def test_a_text_must_be_about_its_topic() -> None:
    rain = next(item for item in general_questions()["writing_ko"] if "봄비" in item.prompt)
    assert judge_answer(rain, "처마 끝에서 빗방울이, 아니 봄비가 떨어졌다.").right
    assert not judge_answer(rain, "고양이가 잠들었다.").right
    assert not judge_answer(rain, "봄비가 내리는").right
