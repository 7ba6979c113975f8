"""The page in a real browser: nothing on its console, and a hostile answer stays text."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mlx_loopai.evaluation.gate import Gate
from mlx_loopai.report.pages.comparison import comparison_page
from mlx_loopai.runs.documents.comparison import Comparison
from tests.unit.report.test_comparison import HOSTILE

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --enable-logging=stderr"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine")]


def browse(html: str, folder: Path) -> tuple[str, list[str]]:
    """The page as the browser holds it, and the lines on its console."""
    page = folder / "page.html"
    page.write_text(html, encoding="utf-8")
    command = [str(BROWSER), *FLAGS.split(), f"--user-data-dir={folder / 'profile'}", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_no_word_on_the_console(document: dict[str, Any], tmp_path: Path) -> None:
    for arm in document["arms"].values():
        arm["examples"] = [{"prompt": HOSTILE, "answer": HOSTILE, "right": False}]
    dom, console = browse(comparison_page(Comparison.from_json(document, "demo.json"), Gate()), tmp_path)
    assert console == []
    assert "<script" not in dom
    assert "onerror=alert(1)&gt;" in dom


def test_the_console_would_be_heard(document: dict[str, Any], tmp_path: Path) -> None:
    """The page's own policy refuses a script, and says so there."""
    html = comparison_page(Comparison.from_json(document, "demo.json"), Gate()).replace(
        "</main>", "<script>document.title = 'run'</script></main>"
    )
    dom, console = browse(html, tmp_path)
    assert any("Content Security Policy" in line for line in console)
    assert "<title>run</title>" not in dom
