from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mlx_loopai.cli.report import command, write_report
from mlx_loopai.errors import InputError

DOCUMENT: dict[str, Any] = {
    "arms": {
        "base": {"retention": 1.0, "retention_min": 1.0},
        "plain": {"retention": 0.2, "retention_min": 0.0, "gain": 1.0},
        "guarded": {"retention": 0.98, "retention_min": 0.95, "gain": 0.97},
    },
}


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    path = tmp_path / "demo.json"
    path.write_text(json.dumps(DOCUMENT), encoding="utf-8")
    return path


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(command, [str(arg) for arg in args])


def failure(*args: str | Path) -> str:
    result = run(*args)
    assert isinstance(result.exception, InputError)
    return str(result.exception)


def test_the_path_is_printed_and_the_page_is_beside_the_json(demo: Path) -> None:
    result = run(demo)
    place = demo.parent / "report.html"
    assert (result.exit_code, result.output) == (0, f"{place}\n")
    assert place.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert {path.name for path in demo.parent.iterdir()} == {"demo.json", "report.html"}


def test_a_folder_with_a_comparison(demo: Path) -> None:
    assert run(demo.parent, "--quiet").exit_code == 0
    assert (demo.parent / "report.html").exists()


def test_json(demo: Path, tmp_path: Path) -> None:
    out = tmp_path / "다른 이름.html"
    document = json.loads(run(demo, "--out", out, "--json").output)
    assert document == {"report": str(out), "kind": "comparison", "passes": {"plain": False, "guarded": True}}
    assert out.exists()


def test_a_run_folder(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text('{"event": "step", "step": 1, "phase": "train", "loss": 3.0}\n')
    document = json.loads(run(tmp_path, "--json").output)
    assert document == {"report": str(tmp_path / "report.html"), "kind": "run", "passes": {}}


def test_other_commands_write_the_same_report(demo: Path) -> None:
    assert write_report(demo) == demo.parent / "report.html"


def test_the_same_document_gives_the_same_bytes(demo: Path, tmp_path: Path) -> None:
    pages = [write_report(demo, tmp_path / name).read_bytes() for name in ("a.html", "b.html")]
    assert pages[0] == pages[1]


def test_bad_input_says_where_and_what_to_do(tmp_path: Path, demo: Path) -> None:
    assert f"{tmp_path / 'none'}: no such file or folder" in failure(tmp_path / "none")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "holds no run (events.jsonl) and no comparison (demo.json" in failure(empty)
    assert "is a folder" in failure(demo, "--out", empty)
    assert "create it first" in failure(demo, "--out", tmp_path / "none" / "a.html")
    broken = tmp_path / "broken.json"
    for content, message in [
        (b"", "broken.json:1: not JSON"),
        (b'{"arms": {\n"a": }', "broken.json:2: not JSON"),
        (b'{"a": "\xff"}', "broken.json: byte 7 is not UTF-8"),
        (b'{"bleu": 1}', "arms is missing; unknown key bleu"),
        (b"[" * 100_000, "broken.json: nested too deeply"),
    ]:
        broken.write_bytes(content)
        assert message in failure(broken)
    assert not (tmp_path / "report.html").exists()


def test_a_broken_evaluation_names_its_file(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text("")
    (tmp_path / "evaluation.json").write_text('{"probes": []}')
    assert (
        "evaluation.json: retention is missing; retention_min is missing; probes: expected a table, got a list"
        in failure(tmp_path)
    )
