"""A whole judgement: asked again after nonsense, kept, continued."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlx_loopai.errors import InputError
from mlx_loopai.evaluation.pairwise import ANSWERS_PER_QUESTION, Judgements, judge_pairs, pairs_of, preferring
from mlx_loopai.evaluation.rubric import Pair
from mlx_loopai.evaluation.text_metrics import Generated
from tests.unit.evaluation.judges import choice

GOOD, BAD = Generated("좋은 글", "요청"), Generated("나쁜 글", "요청")
PAIRS = [Pair(GOOD, BAD), Pair(BAD, GOOD), Pair(GOOD, GOOD)]
Messages = list[dict[str, str]]


def honest(messages: Messages) -> str:
    shown = messages[1]["content"]
    places = [shown.find(f"\n{text.text}\n") for text in (GOOD, BAD)]
    return choice("tie" if -1 in places else "1" if places[0] < places[1] else "2")


def test_an_honest_judge(tmp_path: Path) -> None:
    found = judge_pairs(PAIRS, honest, Judgements(tmp_path / "kept.jsonl", "judge"))
    overall = found["criteria"]["overall"]
    assert (overall["wins"], overall["losses"], overall["ties"], overall["win_rate"]) == (1, 1, 1, 0.5)
    assert (found["agreement"], found["unreadable"]) == (1.0, 0)


def test_a_second_run_asks_only_what_is_missing(tmp_path: Path) -> None:
    kept = Judgements(tmp_path / "kept.jsonl", "judge")
    first = judge_pairs(PAIRS, honest, kept)
    lines = kept.path.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2 * len(PAIRS)
    # Killed in the middle of a line, after four whole ones.
    kept.path.write_text("\n".join([*lines[:4], lines[4][:20]]), encoding="utf-8")
    asked: list[Messages] = []

    def ask(messages: Messages) -> str:
        asked.append(messages)
        return honest(messages)

    assert judge_pairs(PAIRS, ask, kept) == first
    assert len(asked) == 2
    assert judge_pairs(PAIRS, ask, kept) == first
    assert len(asked) == 2


def test_verdicts_of_another_judge_or_text_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl"
    judge_pairs(PAIRS[:1], honest, Judgements(path, "one"))
    assert Judgements(path, "other").read() == {}
    known = Judgements(path, "one").read()
    changed = Pair(Generated("좋은 글.", "요청"), BAD)
    assert (PAIRS[0].identity, False) in known
    assert (changed.identity, False) not in known


def test_a_judge_that_chats_first_is_told_what_is_wrong(tmp_path: Path) -> None:
    asked: list[Messages] = []

    def ask(messages: Messages) -> str:
        asked.append(messages)
        return "글 1이 좋네요!" if len(messages) == 2 else honest(messages)

    found = judge_pairs(PAIRS[:1], ask, Judgements(tmp_path / "kept.jsonl", "judge"))
    assert found["criteria"]["overall"]["wins"] == 1
    assert len(asked) == 4
    assert [message["role"] for message in asked[1]] == ["system", "user", "assistant", "user"]
    assert "not one JSON object" in asked[1][-1]["content"]


def test_a_judge_that_never_answers_in_form_is_counted_and_asked_again_next_time(tmp_path: Path) -> None:
    asked: list[Messages] = []

    def ask(messages: Messages) -> str:
        asked.append(messages)
        return "모르겠어요"

    kept = Judgements(tmp_path / "kept.jsonl", "judge")
    found = judge_pairs(PAIRS, ask, kept)
    assert (found["pairs"], found["unreadable"], found["criteria"]["overall"]["win_rate"]) == (0, 3, None)
    assert len(asked) == ANSWERS_PER_QUESTION * 2 * len(PAIRS)
    assert judge_pairs(PAIRS, honest, kept)["unreadable"] == 0


def test_a_kept_file_of_nonsense_is_no_verdict(tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl"
    path.write_bytes(b"\xff\n[]\n{}\n1\n" + json.dumps({"judge": "j", "version": 1, "choices": 3}).encode())
    assert Judgements(path, "j").read() == {}


def test_files_must_answer_the_same_prompts() -> None:
    assert pairs_of([GOOD], [Generated("글")])[0].prompt == "요청"
    with pytest.raises(InputError, match="2 texts and 1 others"):
        pairs_of([GOOD, BAD], [GOOD])
    with pytest.raises(InputError, match="row 1: '요청' and '다른 요청'"):
        pairs_of([GOOD], [Generated("글", "다른 요청")])


@pytest.mark.parametrize(
    ("first", "second", "better"), [(GOOD, BAD, True), (BAD, GOOD, False), (GOOD, GOOD, None)], ids=str
)
def test_a_preference_holds_in_both_orders(first: Generated, second: Generated, better: bool | None) -> None:
    assert preferring(honest)("요청", first.text, second.text) is better
    assert preferring(lambda _: choice("1"))("요청", first.text, second.text) is None
    assert preferring(lambda _: "글쎄요")("요청", first.text, second.text) is None
