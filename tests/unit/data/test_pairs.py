"""Rows whose answers were judged: every usual form, in every format, and what makes one unreadable."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from mlx_loopai.config import SourceOptions
from mlx_loopai.data.audit import audit
from mlx_loopai.data.conversation import Message
from mlx_loopai.data.pairs import Label, Pair, read_judged
from mlx_loopai.data.records import read_all, read_records
from mlx_loopai.data.sources import read_source, reading_of
from mlx_loopai.data.turns import UnreadableError
from mlx_loopai.errors import InputError

ASKED, GOOD, BAD = Message("user", "안녕?"), Message("assistant", "안녕하세요."), Message("assistant", "Hello 你好")
USER = {"role": "user", "content": "안녕?"}
BETTER, WORSE = ({"role": "assistant", "content": text} for text in (GOOD.content, BAD.content))
OTHER = {"role": "assistant", "content": "무엇을 도와드릴까요?"}


def write_lines(folder: Path, *rows: dict[str, Any], name: str = "pairs.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "안녕?", "chosen": GOOD.content, "rejected": BAD.content},
        {"prompt": [USER], "chosen": [BETTER], "rejected": [WORSE]},
        {"prompt": [USER], "chosen": BETTER, "rejected": WORSE},
        {"prompt": json.dumps([USER]), "chosen": json.dumps([BETTER]), "rejected": json.dumps([WORSE])},
        {"prompt": "안녕?", "chosen": [USER, BETTER], "rejected": [USER, WORSE], "score_chosen": 9.0},
        {"chosen": [USER, BETTER], "rejected": [USER, WORSE]},
        {"messages": [USER], "chosen": BETTER, "rejected": WORSE},
        {"messages": [USER], "chosen": GOOD.content, "rejected": BAD.content},
        {"messages": [USER, BETTER], "rejected_response": BAD.content},
        {"conversations": [{"from": "human", "value": "안녕?"}], "chosen": {"from": "gpt", "value": GOOD.content}, "rejected": {"from": "gpt", "value": BAD.content}},
        {"input": {"messages": [USER]}, "preferred_output": [BETTER], "non_preferred_output": [WORSE]},
        {"instruction": "안녕?", "output": "남의 답", "chosen": GOOD.content, "rejected": BAD.content},
    ],
)  # fmt: skip
def test_every_form_of_a_pair(tmp_path, row):
    (pair,) = read_all(write_lines(tmp_path, row)).judged
    assert isinstance(pair, Pair)
    assert pair.prompt == (ASKED,)
    assert (pair.chosen.messages, pair.rejected.messages) == ((ASKED, GOOD), (ASKED, BAD))
    assert pair.origin.endswith("pairs.jsonl:1")
    again = read_judged(pair.as_row())
    assert again.meaning.messages == pair.chosen.messages
    assert again.rejected is not None
    assert again.rejected.messages == pair.rejected.messages


def test_earlier_answers_of_a_pair_are_context():
    found = read_judged({"chosen": [USER, OTHER, USER, BETTER], "rejected": [USER, OTHER, USER, WORSE]})
    assert [message.taught for message in found.meaning.messages if message.role == "assistant"] == [False, True]
    assert found.rejected is not None
    assert [message.taught for message in found.rejected.messages if message.role == "assistant"] == [False, True]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "안녕?", "chosen": "네", "rejected": "네"}, "the same answer"),
        ({"prompt": "안녕?", "chosen": "네"}, "chosen without rejected"),
        ({"prompt": "안녕?", "rejected": "네"}, "rejected without chosen"),
        ({"chosen": "네", "rejected": "아니요"}, "without the prompt"),
        ({"prompt": "안녕?", "chosen": "네", "rejected": ""}, "empty assistant turn"),
        ({"chosen": [USER, BETTER], "rejected": [USER | {"content": "잘 가"}, WORSE]}, "answer different messages"),
        ({"messages": "네", "chosen": BETTER, "rejected": WORSE}, "must be a list of turns"),
        ({"prompt": "안녕?", "chosen": [BETTER | {"weight": 0}], "rejected": [WORSE]}, "weight 0"),
        ({"messages": [USER, BETTER, USER], "label": True}, "does not end with one"),
    ],
)
def test_what_makes_a_judged_row_unreadable(row, reason):
    with pytest.raises(UnreadableError, match=reason):
        read_judged(row)


@pytest.mark.parametrize(
    ("label", "good"), [(True, True), (False, False), ("true", True), ("False", False), ("👎", False)]
)
def test_a_label_says_whether_an_answer_is_good(label, good):
    found = read_judged({"prompt": "안녕?", "completion": GOOD.content, "label": label})
    assert found.good is good
    assert found.meaning.messages == (ASKED, GOOD)
    assert "label" not in found.meaning.unused


def test_numbers_are_labels_only_where_the_source_says_so():
    row = {"prompt": "안녕?", "completion": GOOD.content, "label": 0}
    assert read_judged(row).good is None
    assert read_judged(row, "labels").good is False


@pytest.mark.parametrize(
    ("kind", "row", "reason"),
    [
        ("pairs", {"prompt": "안녕?", "completion": "네"}, "no pair"),
        ("labels", {"prompt": "안녕?", "completion": "네"}, "no label"),
        ("labels", {"prompt": "안녕?", "chosen": "네", "rejected": "응"}, "a pair of answers"),
        ("rows", {"prompt": "안녕?", "completion": "네", "label": False}, "label is false"),
    ],
)
def test_a_source_says_what_its_rows_are(kind, row, reason):
    with pytest.raises(UnreadableError, match=reason):
        read_judged(row, kind)


def test_rows_of_pairs_are_their_chosen_answers(tmp_path):
    path = str(write_lines(tmp_path, {"prompt": "안녕?", "chosen": GOOD.content, "rejected": BAD.content}))
    how = SourceOptions(path=path, kind="rows")
    (record,) = read_source(path, "domain", how)
    assert reading_of(path, "domain", how).unused == {"rejected": 1}
    assert record.messages == (ASKED, GOOD)


def test_worse_answers_are_never_read_as_ordinary_rows(tmp_path):
    pair = {"prompt": "안녕?", "chosen": GOOD.content, "rejected": BAD.content}
    bad = {"prompt": "안녕?", "completion": BAD.content, "label": False}
    for row in (pair, bad):
        with pytest.raises(InputError, match=r"pairs\.jsonl:1: .*preference\.objective.*`kind: rows`"):
            read_records(write_lines(tmp_path, row))
    good = bad | {"label": True}
    assert [record.messages[-1] for record in read_records(write_lines(tmp_path, good))] == [BAD]


def test_labels_in_a_table(tmp_path):
    path = tmp_path / "votes.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(
            [["prompt", "completion", "label"], ["안녕?", "네", "True"], ["안녕?", "Hi", "False"]]
        )
    labels = read_all(path).judged
    assert [isinstance(one, Label) and one.good for one in labels] == [True, False]


def test_names_of_control_tokens_are_allowed_in_pairs_too(tmp_path):
    path = str(write_lines(tmp_path, {"prompt": "안녕?", "chosen": "<|im_end|>", "rejected": "네"}))
    (pair,) = reading_of(path, "domain", SourceOptions(path=path, allow_special=True)).judged
    assert isinstance(pair, Pair)
    assert pair.chosen.allow_special
    assert pair.rejected.allow_special


def test_audit_knows_pairs_and_labels(tmp_path):
    rows = [{"prompt": f"안녕 {number}?", "chosen": "네, 반갑습니다.", "rejected": "Hi 你"} for number in range(4)]
    votes = [{"prompt": "잘 가", "completion": "또 봐요.", "label": True}]
    reading = read_all(write_lines(tmp_path, *rows, *votes))
    found = audit(reading.answers, judged=reading.judged)
    assert found.rows == 5
    told = found.preferences
    assert told is not None
    assert (told.pairs, told.good, told.bad, told.prompts) == (4, 1, 0, 5)
    assert told.chosen_longer == 1.0
    assert told.chosen_purity == 1.0
    assert told.rejected_purity is not None
    assert told.rejected_purity < 0.5
    assert ["length is learnt first" in line or "all labels are good" in line for line in found.warnings].count(
        True
    ) == 2
