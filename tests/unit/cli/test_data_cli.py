from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Ended

CommandLine = Callable[..., Ended]

SHAPED = json.dumps(
    {"prompt": "판타지 글", "completion": '{"text": ["용이 날았다.", "해가 졌다."]}'}, ensure_ascii=False
)
PLAIN = json.dumps({"prompt": "안녕?", "completion": "네, 안녕하세요."}, ensure_ascii=False)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{SHAPED}\n{PLAIN}\n", encoding="utf-8")
    return path


def test_audit_warns_of_json_answers(rows: Path, command_line: CommandLine) -> None:
    ended = command_line("data", "audit", str(rows), "--json", "--quiet")
    assert ended.status == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert (found["rows"], found["json_shaped"]["rows"]) == (2, 1)
    assert "data convert" in found["warnings"][0]
    assert "warning: 1 of 2 rows are answered in JSON" in command_line("data", "audit", str(rows)).stdout


def test_convert_takes_the_text_out_and_audit_is_content(rows: Path, tmp_path: Path, command_line: CommandLine) -> None:
    out = tmp_path / "natural.jsonl"
    ended = command_line("data", "convert", str(rows), "--out", str(out), "--json")
    assert ended.status == 0, ended.stderr
    assert (document := json.loads(ended.stdout))["reshaped"] == 1, document
    first = json.loads(out.read_text(encoding="utf-8").splitlines()[0])
    assert first["messages"][1]["content"] == "용이 날았다.\n\n해가 졌다."
    assert json.loads(command_line("data", "audit", str(out), "--json").stdout)["json_shaped"]["rows"] == 0


def test_build_writes_a_set_that_train_takes(rows: Path, tmp_path: Path, command_line: CommandLine) -> None:
    out = tmp_path / "set"
    arguments = ("data", "build", "--source", f"domain={rows}", "--count", "domain=5", "--out", str(out))
    ended = command_line(*arguments, "--validation-share", "0", "--json")
    assert ended.status == 0, ended.stderr
    assert json.loads(ended.stdout)["categories"]["domain"]["passes"] == 2.5
    assert len((out / "domain.jsonl").read_text(encoding="utf-8").splitlines()) == 5
    from mlx_loopai.config import load_config

    assert load_config(out / "recipe.yaml").sources["domain"].path == str(out / "domain.jsonl")
    again = command_line(*arguments)
    assert again.status == 2
    assert "holds a built set" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--source", "rows.jsonl"), "expected CATEGORY=VALUE"),
        (("--source", "novel=rows.jsonl"), "unknown category novel"),
        (("--source", "domain=rows.jsonl", "--count", "domain=many"), "not a number of rows"),
        (("--source", "domain=nowhere.jsonl"), "no such file"),
    ],
)
def test_wrong_sources_are_named(
    arguments: tuple[str, ...], says: str, tmp_path: Path, command_line: CommandLine
) -> None:
    ended = command_line("data", "build", *arguments, "--out", str(tmp_path / "set"))
    assert (ended.status, ended.stderr.count("\n")) == (2, 1)
    assert says in ended.stderr
    assert not (tmp_path / "set").exists()


def test_stories_become_rows_with_a_preview(tmp_path: Path, command_line: CommandLine) -> None:
    folder, out = tmp_path / "stories", tmp_path / "rows.jsonl"
    folder.mkdir()
    lines = [f"{number}번째 밤에 별이 {number}개 떨어졌다. 우리는 {number * 7}걸음을 걸었다." for number in range(60)]
    (folder / "별.txt").write_bytes("\n".join(lines).encode("cp949"))
    made = ("data", "from-texts", str(folder), "--out", str(out), "--scene-chars", "300")
    ended = command_line(*made, "--genre", "동화", "--json")
    assert ended.status == 0, ended.stderr
    document = json.loads(ended.stdout)
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert document["rows"] == len(rows) >= 3
    assert document["encodings"] == {"cp949": 1}
    assert len(document["preview"]) == min(5, len(rows))
    assert rows[0]["messages"][0]["content"] == document["preview"][0]["request"]
    assert "train with: mlx-loopai train" in command_line(*made).stdout


def test_stories_that_are_not_there_are_named(tmp_path: Path, command_line: CommandLine) -> None:
    refused = command_line("data", "from-texts", str(tmp_path / "none"), "--out", str(tmp_path / "rows.jsonl"))
    assert refused.status == 2
    assert "no such file or folder" in refused.stderr


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


EMPTY = {"prompt": "질문", "completion": ""}
GOOD = {"prompt": "질문", "completion": "답", "id": 3}


def test_audit_counts_rows_that_cannot_be_learnt_and_names_unused_fields(
    tmp_path: Path, command_line: CommandLine
) -> None:
    file = lines(tmp_path / "rows.jsonl", GOOD, EMPTY, GOOD, {"x": 1}, {"prompt": "<|im_end|>", "completion": "나"})
    ended = command_line("data", "audit", str(file))
    assert ended.status == 0, ended.stderr
    assert "bad rows       2 rows: empty assistant turn (1: line 2)" in ended.stdout
    assert "fields not used: id" in ended.stdout
    assert "names of control tokens" in ended.stdout
    found = json.loads(command_line("data", "audit", str(file), "--json").stdout)
    assert (found["rows"], len(found["bad"]), found["unused_fields"]) == (3, 2, ["id"])
    assert found["bad"][0] == {"origin": f"{file}:2", "reason": "empty assistant turn", "empty": True}


def test_convert_leaves_out_empty_answers_and_stops_at_other_problems(
    tmp_path: Path, command_line: CommandLine
) -> None:
    file = lines(tmp_path / "rows.jsonl", GOOD, EMPTY, GOOD)
    ended = command_line("data", "convert", str(file), "--out", str(tmp_path / "o.jsonl"))
    assert ended.status == 0, ended.stderr
    assert "left out 1 rows: empty assistant turn (1: line 2)" in ended.stdout
    assert len((tmp_path / "o.jsonl").read_text(encoding="utf-8").splitlines()) == 2
    bad = lines(tmp_path / "bad.jsonl", GOOD, EMPTY, GOOD | {"label": False})
    ended = command_line("data", "convert", str(bad), "--out", str(tmp_path / "p.jsonl"))
    assert ended.status == 2
    assert "bad.jsonl:3: label is false" in ended.stderr
    skipped = command_line("data", "convert", str(bad), "--out", str(tmp_path / "p.jsonl"), "--skip-bad", "--json")
    assert [row["origin"].rpartition(":")[2] for row in json.loads(skipped.stdout)["left_out"]] == ["2", "3"]


def test_convert_keeps_weights_thoughts_and_a_system_column(tmp_path: Path, command_line: CommandLine) -> None:
    turns = [{"from": "human", "value": "가"}, {"from": "gpt", "value": "나", "weight": 0}]
    turns += [{"from": "human", "value": "다"}, {"from": "gpt", "value": "<think>\n음\n</think>\n\n라"}]
    file = lines(tmp_path / "rows.jsonl", {"system": "이야기꾼", "conversations": turns})
    assert command_line("data", "convert", str(file), "--out", str(tmp_path / "o.jsonl"), "--quiet").status == 0
    (row,) = map(json.loads, (tmp_path / "o.jsonl").read_text(encoding="utf-8").splitlines())
    assert row["messages"][0] == {"role": "system", "content": "이야기꾼"}
    assert row["messages"][2]["weight"] == 0
    assert row["messages"][4] == {"role": "assistant", "content": "라", "reasoning_content": "음"}


def test_columns_and_folders(tmp_path: Path, command_line: CommandLine) -> None:
    (tmp_path / "set").mkdir()
    lines(tmp_path / "set/train.jsonl", {"질문": "가", "답변": "나"})
    lines(tmp_path / "set/test.jsonl", {"질문": "다", "답변": "라"})
    columns = ("--columns", "prompt=질문, completion=답변")
    ended = command_line("data", "convert", str(tmp_path / "set"), "--out", str(tmp_path / "o.jsonl"), *columns)
    assert ended.status == 0, ended.stderr
    assert "left out: test.jsonl" in ended.stdout
    assert len((tmp_path / "o.jsonl").read_text(encoding="utf-8").splitlines()) == 1
    wrong = command_line("data", "audit", str(tmp_path / "set"), "--columns", "prompt")
    assert wrong.status == 2
    assert "--columns prompt: expected NAME=FIELD" in wrong.stderr
