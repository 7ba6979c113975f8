"""`evaluate --text`: the metrics of a file, and a judge on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mlx_loopai.cli.evaluate import command
from mlx_loopai.errors import InputError, LoopaiError
from tests.unit.evaluation.judges import Reply, choice, judge_server

FLAT = {"prompt": "바다를 써 주세요", "text": "바다가 있었다. 바다가 있었다."}
VIVID = {"prompt": "바다를 써 주세요", "text": "새벽 바다는 식은 숯처럼 검었고, 갈매기 하나가 그 위를 그었다."}


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    paths = tmp_path / "vivid.jsonl", tmp_path / "flat.jsonl"
    for path, row in zip(paths, (VIVID, FLAT), strict=True):
        path.write_text(3 * (json.dumps(row, ensure_ascii=False) + "\n"), encoding="utf-8")
    return paths


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(command, [str(arg) for arg in args])


def likes_vivid(body: dict[str, Any], number: int) -> Reply:
    shown = body["messages"][1]["content"]
    return Reply(choice("1" if shown.index("숯처럼") < shown.index("있었다. 바다가") else "2"))


def test_a_judge_compares_two_files(files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_LOOPAI_JUDGE_KEY", "secret")
    with judge_server(likes_vivid) as served:
        args = ("--text", files[0], "--against", files[1], "--judge-url", served.url, "--judge-model", "m")
        result = run(*args, "--json", "--quiet")
        people = run(*args)
    assert result.exception is None
    judge = json.loads(result.stdout)["judge"]
    assert (judge["pairs"], judge["unreadable"], judge["agreement"], judge["first_share"]) == (3, 0, 1.0, 0.5)
    assert judge["criteria"]["creativity"]["win_rate"] == 1.0
    assert "1.000 (95 % interval 1.000 to 1.000; 3 wins, 0 losses, 0 ties)" in people.stdout
    # Three equal pairs: one question in two orders, and none the second time.
    assert served.keys == ["Bearer secret"] * 2
    assert "secret" not in result.output + people.output + Path(judge["judgements"]).read_text(encoding="utf-8")


def test_what_was_judged_before_a_failure_is_kept(files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlx_loopai.evaluation.endpoint.TRIES", 1)
    with judge_server(lambda body, number: likes_vivid(body, 0) if number == 0 else Reply(b"", 500)) as served:
        result = run("--text", files[0], "--against", files[1], "--judge-url", served.url, "--judge-model", "m")
    assert isinstance(result.exception, LoopaiError)
    assert "HTTP 500" in str(result.exception)
    assert "the same command continues" in str(result.exception)
    kept = files[0].with_name("vivid-against-flat.judgements.jsonl")
    assert len(kept.read_text(encoding="utf-8").splitlines()) == 1


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--text", "{a}", "--against", "{b}"), "add --judge-url, --judge-model"),
        (("--text", "{a}", "--judge-model", "m"), "add --against, --judge-url"),
        (("--text", "{a}", "--judgements", "k.jsonl"), "there is no judge"),
        (("--against", "{b}"), "--against: there is nothing to compare with it; add --text"),
        (("--lid",), "--lid: there is nothing to compare"),
        (("--references", "{b}"), "--references: there is nothing to compare"),
        (("--text", "{a}", "--english-words", "{b}"), "add --lid"),
        (("--text", "{a}", "--lid", "--english-words", "{a}.none"), "cannot be read"),
        (
            ("--text", "{a}", "--against", "{b}", "--judge-url", "http://localhost:1", "--judge-model", "m",
             "--judgements", "{a}/none/k.jsonl"),
            "not a file in a folder that exists",
        ),
    ],
)  # fmt: skip
def test_options_that_lack_another(files: tuple[Path, Path], args: tuple[str, ...], says: str) -> None:
    result = run(*(arg.format(a=files[0], b=files[1]) for arg in args))
    assert isinstance(result.exception, InputError)
    assert says in str(result.exception)


def test_a_language_identifier_stands_beside_the_rule_on_scripts(files: tuple[Path, Path]) -> None:
    pytest.importorskip("fasttext", reason="the extra lid is not installed")
    found = json.loads(run("--text", files[0], "--lid", "--json").stdout)
    assert (found["fasttext"], found["lpr"]) == ({"n": 3, "lpr": 1.0, "wpr": 1.0}, 1.0)
    assert "by fastText, over 3 texts: lpr 1.000, wpr 1.000" in run("--text", files[0], "--lid").stdout
