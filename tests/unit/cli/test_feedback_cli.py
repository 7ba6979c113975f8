"""`feedback`: import what others judged, look at it, and make pairs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlx_loopai.text.korean_only import holds_foreign_words, is_korean_only

ROWS = [
    {"prompt": "바다를 묘사해 주세요.", "completion": "파도가 천천히 밀려왔다. 모래는 아직 따뜻했다."},
    {"prompt": "산을 묘사해 주세요.", "completion": "안개가 산등성이를 감쌌다. 새들은 조용했다."},
    {"prompt": "영어로 답해 주세요.", "completion": "Sure, here it is."},
]
PAIR = {"prompt": "안녕?", "chosen": "안녕하세요, 반갑습니다.", "rejected": "Hi"}
VOTE = {"prompt": "잘 가", "completion": "또 봐요.", "label": True}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def build(name: str, *rows: dict[str, Any]) -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return path

    return build


def shown(result: Any) -> dict[str, Any]:
    assert result.status == 0, result.stderr
    return json.loads(result.stdout)


def test_import_audit_and_stats(command_line: Any, write: Callable[..., Path], tmp_path: Path) -> None:
    source, target = write("theirs.jsonl", PAIR, VOTE, ROWS[0]), tmp_path / "feedback.jsonl"
    first = shown(command_line("feedback", "import", source, "--to", target, "--json"))
    assert first == {"out": str(target), "added": 2, "known": 0, "ordinary_rows": 1}
    assert shown(command_line("feedback", "import", source, "--to", target, "--json"))["added"] == 0
    counted = shown(command_line("feedback", "stats", target, "--json"))
    assert (counted["pairs"], counted["good"], counted["sources"]) == (1, 1, {"import": 2})
    audited = shown(command_line("feedback", "audit", target, "--json"))
    assert audited["chosen_longer"] == 1.0
    assert any("length is learnt first" in line for line in audited["warnings"])
    assert "1 pairs, 1 good and 0 bad answers to 2 prompts" in command_line("data", "audit", target).stdout


def test_spliced_pairs_are_rows_that_train_reads(command_line: Any, write: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "pairs.jsonl"
    data = write("rows.jsonl", *ROWS)
    found = shown(command_line("feedback", "pairs", "--splice", "0.15", "--data", data, "--out", out, "--json"))
    assert found["pairs"] == 2
    assert found["dropped"] == {"the answer is not clean Korean": 1}
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert {row["source"] for row in rows} == {"spliced"}
    assert shown(command_line("feedback", "stats", out, "--json"))["pairs"] == 2


def test_korean_answers_are_paired_with_foreign_ones(command_line: Any, tmp_path: Path) -> None:
    prompts, out = tmp_path / "prompts.txt", tmp_path / "pairs.jsonl"
    # nano answers the first two in English when it may.
    asked = (
        "What is the capital of France?",
        "Describe a small village.",
        "바다 이야기를 써 주세요.",
        "sea를 번역해 줘",
    )
    prompts.write_text("\n".join(asked), encoding="utf-8")
    given = ("--korean", "2", "--prompts", prompts, "--max-tokens", "32", "--length", "1:2000")
    found = shown(command_line("feedback", "pairs", "--model", "nano", *given, "--out", out, "--json"))
    assert found["dropped"]["the request names another language, or code"] == 1
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == found["pairs"] > 0
    assert {(row["source"], row["model"]) for row in rows} == {("korean", "nano")}
    for row in rows:
        assert is_korean_only(row["chosen"][0]["content"])
        assert holds_foreign_words(row["rejected"][0]["content"])


def test_positions_are_found_in_free_answers_and_train_reads_them(command_line: Any, tmp_path: Path) -> None:
    prompts, out = tmp_path / "prompts.txt", tmp_path / "positions.jsonl"
    # nano answers them in English when it may.
    prompts.write_text("What is the capital of France?\nTell me about the moon.\nsea를 번역해 줘", encoding="utf-8")
    given = ("--prompts", prompts, "--answers", "3", "--max-tokens", "16", "--seed", "3", "--json")
    found = shown(command_line("feedback", "positions", "--model", "nano", *given, "--out", out))
    assert found["dropped"]["the request names another language, or code"] == 1
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == found["positions"] > 0
    assert {(row["source"], row["model"]) for row in rows} == {("positions", "nano")}
    assert all({one["score"] for one in row["candidates"]} == {0, 1} for row in rows)
    assert shown(command_line("feedback", "stats", out, "--json"))["positions"] == len(rows)
    assert shown(command_line("feedback", "audit", out, "--json"))["best_probability"] < 1
    assert f"positions      {len(rows)} in answers" in command_line("data", "audit", out).stdout
    steps = ("--set", "preference.objective=tlpo", "--set", "train.max_steps=1", "--set", "validation_share=0")
    run = shown(command_line("train", "--plain", "--data", out, "--out", tmp_path / "run", *steps, "--json"))
    assert run["steps"] == 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("pairs", "--out", "x.jsonl"), "give --best-of or --korean with --prompts, or --splice with --data"),
        (("pairs", "--best-of", "2", "--out", "x.jsonl"), "--best-of needs --prompts"),
        (("pairs", "--korean", "1", "--out", "x.jsonl"), "--korean needs --prompts"),
        (
            (
                "positions",
                "--model",
                "nano",
                "--prompts",
                "{prompts}",
                "--max-tokens",
                "2",
                "--out",
                "x.jsonl",
                "--quiet",
            ),
            "no position was made; the answer has no foreign words",
        ),
        (("pairs", "--korean", "1", "--splice", "0.1", "--out", "x.jsonl"), "one of the three"),
        (
            ("pairs", "--best-of", "2", "--prompts", "{prompts}", "--judge-model", "j", "--out", "x.jsonl"),
            "needs --judge-url and --judge-model",
        ),
        (("pairs", "--splice", "0.1", "--out", "x.jsonl"), "--splice needs --data"),
    ],
)
def test_what_is_missing_is_said(command_line: Any, tmp_path: Path, arguments: tuple[str, ...], reason: str) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("바다\n", encoding="utf-8")
    result = command_line("feedback", *(argument.format(prompts=prompts) for argument in arguments))
    assert result.status == 2
    assert reason in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_file_without_judged_answers_is_refused(
    command_line: Any, write: Callable[..., Path], tmp_path: Path
) -> None:
    result = command_line("feedback", "import", write("rows.jsonl", ROWS[0]), "--to", tmp_path / "f.jsonl")
    assert result.status == 2
    assert "holds no pair of answers" in result.stderr
    assert not (tmp_path / "f.jsonl").exists()
