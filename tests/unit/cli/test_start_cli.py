"""`mlx-loopai start`: everything by flags, on the embedded model; and what it refuses before any work."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from mlx_loopai.config import load_config
from tests.unit.cli.conftest import Ended

CommandLine = Callable[..., Ended]
QUICK = [
    argument
    for pair in ("train.max_steps=2", "train.rows_per_step=2", "forgetting.questions=1", "replay.max_prompts=4")
    for argument in ("--set", pair)
]


def test_from_stories_to_a_verdict(command_line: CommandLine, tmp_path: Path) -> None:
    stories, out = tmp_path / "stories", tmp_path / "run"
    stories.mkdir()
    scene = "호랑이는 조용히 산길을 내려와 {} 번째 등불 앞에 앉았고, 아이는 그 곁에서 밤새 이야기를 들었다."
    for number in range(4):
        text = "\n\n".join(scene.format(number * 10 + place) for place in range(10))
        (stories / f"{number}.txt").write_text(f"{number}번째 밤\n\n{text}", encoding="utf-8")
    ended = command_line("start", "--data", stories, "--model", "nano", "--out", out, "--yes", "--json", *QUICK)
    assert ended.status == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert (found["model"], found["steps"], found["verdict"]) == ("nano", 2, "too little data")
    assert found["samples"]
    low, high = found["estimate_s"]
    assert 0 < low < high
    assert Path(found["report"]).is_file()
    written = load_config(found["recipe"])
    assert (written.model, written.train.max_steps) == ("nano", 2)
    assert [source.path for source in written.sources.values()] == [str(stories.resolve())]
    assert "rows" in ended.stderr
    assert "2 steps" in ended.stderr
    assert "too little data: 2 steps are too few to learn from" in ended.stderr  # before it trains
    again = command_line("start", "--data", stories, "--out", out, "--yes")
    assert again.status == 2
    assert "holds a run already" in again.stderr


def test_what_cannot_be_asked_is_named(command_line: CommandLine, tmp_path: Path, rows_file: Path) -> None:
    """Neither a pipe nor --yes can say which texts to learn."""
    for arguments, said in ((["--yes"], "--data"), ([], "--data"), (["--data", rows_file, "--out", tmp_path], "--yes")):
        ended = command_line("start", "--model", "nano", *arguments)
        assert ended.status == 2
        assert said in ended.stderr


def test_nothing_is_left_when_there_is_nothing_to_learn(command_line: CommandLine, tmp_path: Path) -> None:
    empty = tmp_path / "rows.jsonl"
    empty.write_text("", encoding="utf-8")
    ended = command_line("start", "--data", empty, "--out", tmp_path / "run", "--yes")
    assert ended.status == 2
    assert not (tmp_path / "run").exists()


def test_rows_that_cannot_be_learnt_are_named_before_anything_else(command_line: CommandLine, tmp_path: Path) -> None:
    row = {"prompt": "이야기 하나 들려주세요.", "completion": "옛날 옛적에 토끼가 살았습니다." * 3}
    lines = [json.dumps(row, ensure_ascii=False)] * 18
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join([*lines, "{"]), encoding="utf-8")
    ended = command_line("start", "--data", file, "--model", "nano", "--out", tmp_path / "run", "--yes")
    assert ended.status == 2
    assert "rows.jsonl:19: broken JSON" in ended.stderr
    pair = {"prompt": "이야기", "chosen": "옛날 옛적에.", "rejected": "싫어요."}
    file.write_text("\n".join([lines[0], json.dumps(pair)]), encoding="utf-8")
    ended = command_line("start", "--data", file, "--model", "nano", "--out", tmp_path / "run", "--yes")
    assert ended.status == 2
    assert "rows.jsonl:2: a pair of answers" in ended.stderr
