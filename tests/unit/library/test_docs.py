"""Every block of docs/python.md runs, from top to bottom."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[3] / "docs" / "python.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_korean_page_has_the_same_code() -> None:
    english, korean = (BLOCK.findall(page.read_text(encoding="utf-8")) for page in (PAGE, PAGE.with_suffix(".ko.md")))
    assert english == korean


def test_every_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    page = PAGE.read_text(encoding="utf-8")
    assert page.count("```") == 2 * len(BLOCK.findall(page))
    names: dict[str, object] = {}
    for found in BLOCK.finditer(page):
        line = page.count("\n", 0, found.start(1))
        exec(compile("\n" * line + found[1], str(PAGE), "exec"), names)
    printed = capsys.readouterr().out
    assert "방콕" in printed
    assert "did you mean `max_tokens`?" in printed
    assert {"rows.jsonl", "runs", "models"} <= {path.name for path in tmp_path.iterdir()}
