from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_loopai.data.tokens import ChatEncoder
from mlx_loopai.errors import InputError
from mlx_loopai.evaluation import choices, suite_run
from mlx_loopai.evaluation.choices import Choice, read_choices
from mlx_loopai.evaluation.forms import EXAMPLES
from mlx_loopai.evaluation.perplexity import nll
from mlx_loopai.evaluation.questions import Question, constant_guess, general_questions, judge_answer, read_questions
from mlx_loopai.evaluation.suite import Asked, Chosen, Scored, read_suite
from mlx_loopai.evaluation.suite_run import SuiteRun, report, results, run_suite
from mlx_loopai.models.load import load_model


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
        assert constant_guess(asked) < 0.4


def test_chance_is_the_best_constant_guess() -> None:
    asked = [Question("a", ("yes",)), Question("b", ("yes", "sure")), Question("c", ("no",)), Question("d", ("no!",))]
    assert constant_guess(asked) == 0.5


def test_problems_of_a_question_file_are_all_named(tmp_path: Path) -> None:
    file = tmp_path / "qa.jsonl"
    file.write_text('{"prompt": "a"}\n{"question": "b", "answer": "c"}\n{"prompt": "d", "answer": "e", "match": "x"}\n')
    with pytest.raises(InputError, match=r"qa.jsonl:1: needs(.|\n)*qa.jsonl:3: match 'x'"):
        read_questions(file)


def test_kobest_tables_are_read_by_their_columns(tmp_path: Path) -> None:
    file = tmp_path / "items.tsv"
    file.write_text("ID\tsentence\tquestion\t1\t2\tAnswer\n1\t비가 왔다.\t결과\t땅이 젖었다.\t땅이 말랐다.\t1\n")
    assert read_choices(file) == [Choice("비가 왔다. 그래서", ("땅이 젖었다.", "땅이 말랐다."), 0)]
    file.write_text("context\tchoice1\tchoice2\tchoice3\tchoice4\tlabel\n문맥\ta\tb\tc\td\t3\n")
    assert read_choices(file) == [Choice("문맥", ("a", "b", "c", "d"), 3)]
    file.write_text("ID\tText\tQuestion\tAnswer\n1\t글\t맞나?\tTrue\n")
    assert read_choices(file)[0].answer == 1
    rows = tmp_path / "items.jsonl"
    rows.write_text('{"question": "q", "choices": ["x", "y"], "answer": "B"}\n')
    assert read_choices(rows) == [Choice("q", ("x", "y"), 1)]
    rows.write_text('{"question": "q", "choices": ["x", "y"], "answer": 2}\n')
    with pytest.raises(InputError, match="choice 2 of 2"):
        read_choices(rows)


def test_the_chosen_option_has_the_least_nll_per_byte(tiny_model_folder: Path) -> None:
    loaded = load_model(str(tiny_model_folder))
    items = [Choice("ab cd", ("x", "a much longer one", "zz"), 0), Choice("q", ("one", "two"), 1)]
    expected = []
    for item in items:
        scores = []
        for option in item.options:
            row = choices._row(loaded.tokenizer, item.prompt, option)
            scores.append(nll(loaded.model, [row]).nll[0] / len(option.encode()))
        expected.append(int(np.argmin(scores)))
    assert choices.choose(loaded, items) == expected
    assert choices.chance(items) == pytest.approx((1 / 3 + 1 / 2) / 2)


def test_a_suite_file_names_tasks_relative_to_itself(tmp_path: Path) -> None:
    (tmp_path / "qa.jsonl").write_text('{"prompt": "a", "answers": ["b"]}\n{"prompt": "c", "answers": ["d"]}\n')
    (tmp_path / "rows.jsonl").write_text('{"text": "some text"}\n')
    (tmp_path / "c.jsonl").write_text('{"question": "q", "choices": ["x", "y"], "answer": 1}\n')
    file = tmp_path / "suite.yaml"
    file.write_text(
        "qa: {kind: generate, file: qa.jsonl, limit: 1, max_tokens: 7}\n"
        "rows: {kind: nll, file: rows.jsonl}\nc: {kind: choice, file: c.jsonl}\n"
    )
    asked, scored, chosen = read_suite(str(file))
    assert isinstance(asked, Asked)
    assert (len(asked.items), asked.max_tokens) == (1, 7)
    assert isinstance(scored, Scored)
    assert isinstance(chosen, Chosen)
    file.write_text("qa: {kind: generate}\nx: {kind: nll, file: a, colour: red}\n")
    with pytest.raises(InputError, match=r"needs a file(.|\n)*colour"):
        read_suite(str(file))


def test_a_run_is_kept_and_two_are_compared(tiny_model_folder: Path, tmp_path: Path) -> None:
    loaded = load_model(str(tiny_model_folder))
    asked = Asked("qa", tuple(Question(f"q{n}", (f"value{n}",)) for n in range(4)), 3)
    (tmp_path / "rows.jsonl").write_text('{"text": "some text"}\n')
    (tmp_path / "suite.yaml").write_text("rows: {kind: nll, file: rows.jsonl}\n")
    tasks = [asked, Chosen("mc", (Choice("q", ("x", "y"), 1),)), *read_suite(str(tmp_path / "suite.yaml"))]
    run = run_suite(loaded, ChatEncoder(loaded.tokenizer), tasks)
    path = tmp_path / "run.json"
    suite_run.write_run(path, run)
    assert suite_run.read_run(path) == run
    assert len({suite_run.cache_name(loaded, "", task) for task in tasks}) == len(tasks)

    def said(*texts: str) -> SuiteRun:
        return SuiteRun({"qa": [(text, True) for text in texts]}, {"mc": [1]}, {"rows": 1.0})

    base, tuned = said("value0", "value1", "value2", "no"), said("value0", '{"text": ["value1"]}', "no", "value3")
    document = report("m", "a", tasks, base, tuned)
    assert [one.score for one in results(tasks, base)] == [0.75, 1.0]
    # qa: chance 1/4, so (0.5 - 0.25) / (0.75 - 0.25); mc is kept whole.
    assert document["probes"]["qa"]["capped"] == pytest.approx(0.5)
    assert document["retention"] == pytest.approx(0.75)
    assert (document["right_to_wrong"], document["wrong_to_right"]) == (2, 1)
    assert document["tuned"]["broken"]["qa"] == {"json": 1}
    assert document["nll"]["rows"]["perplexity"] == pytest.approx(np.e)
    json.dumps(document, allow_nan=False)


def test_a_task_that_was_run_is_not_run_again(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_model(str(tiny_model_folder), "fp32")
    encoder = ChatEncoder(loaded.tokenizer)
    first = Chosen("first", (Choice("q", ("a", "bb"), 0), Choice("r", ("c", "dd"), 1)))
    second = Chosen("second", (Choice("s", ("a", "bb"), 0),))
    ran: list[str] = []

    def noted(*arguments: Any) -> SuiteRun:
        ran.extend(task.name for task in arguments[2])
        return run_suite(*arguments)

    monkeypatch.setattr(suite_run, "run_suite", noted)
    alone = suite_run.kept_run(loaded, encoder, "", [first], tmp_path)
    assert not suite_run.is_kept(loaded, "", [first, second], tmp_path)
    shown: list[tuple[int, str]] = []
    both = suite_run.kept_run(loaded, encoder, "", [first, second], tmp_path, lambda *now: shown.append(now))
    assert ran == ["first", "second"]
    assert both.picks == {**alone.picks, **run_suite(loaded, encoder, [second]).picks}
    assert shown[-1] == (3, "second")
    assert suite_run.is_kept(loaded, "", [second, first], tmp_path)
