"""The file of feedback: appended whole beside other writers, each judged answer once."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

from mlx_loopai.data.feedback import append_feedback, feedback_rows, feedback_sources
from mlx_loopai.data.pairs import Label, Pair
from mlx_loopai.data.records import read_all


def row(number: int) -> dict:
    return {"prompt": f"질문 {number}", "chosen": "네, 그렇습니다.", "rejected": "no"}


def write_many(path: Path, first: int) -> None:
    for number in range(first, first + 20):
        append_feedback(path, [row(number)])


def test_writers_beside_each_other_lose_nothing(tmp_path):
    path = tmp_path / "feedback.jsonl"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_many, args=(path, first)) for first in (0, 100)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    lines = path.read_text(encoding="utf-8").splitlines()
    wanted = {row(first + number)["prompt"] for first in (0, 100) for number in range(20)}
    assert {json.loads(line)["prompt"] for line in lines} == wanted
    assert len(lines) == 40


def test_what_is_known_is_left_out_whatever_is_said_of_its_origin(tmp_path):
    path = tmp_path / "feedback.jsonl"
    assert append_feedback(path, [row(1) | {"source": "pick"}]) == 1
    assert append_feedback(path, [row(1) | {"source": "import"}, row(2), row(2)]) == 1
    assert feedback_sources(path) == {"pick": 1, "": 1}


def test_an_unfinished_line_spoils_no_other(tmp_path):
    path = tmp_path / "feedback.jsonl"
    path.write_text(json.dumps(row(1), ensure_ascii=False) + '\n{"prompt": "끊긴', encoding="utf-8")
    append_feedback(path, [row(2)])
    found = read_all(path)
    assert [one.origin.rpartition(":")[2] for one in found.judged] == ["1", "3"]
    assert [bad.origin.rpartition(":")[2] for bad in found.bad] == ["2"]


def test_judged_answers_come_back_as_they_were(tmp_path):
    path = tmp_path / "feedback.jsonl"
    votes = {"prompt": "안녕?", "completion": "네", "label": False, "system": "짧게"}
    source = tmp_path / "votes.jsonl"
    source.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in (row(1), votes)), encoding="utf-8")
    first = read_all(source)
    append_feedback(path, feedback_rows(first.judged, source="import", model=None, seed=3))
    again = read_all(path)
    assert not again.unused
    for one, other in zip(first.judged, again.judged, strict=True):
        if isinstance(one, Pair):
            assert isinstance(other, Pair)
            assert (one.chosen.messages, one.rejected.messages) == (other.chosen.messages, other.rejected.messages)
        else:
            assert isinstance(other, Label)
            assert (one.answer.messages, one.good) == (other.answer.messages, other.good)
