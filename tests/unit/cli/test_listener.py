"""What a person sees of a run's progress: its stage, and the time that the whole run will still take."""

from __future__ import annotations

import re
import sys

import pytest

from mlx_loopai.cli import output
from mlx_loopai.cli.listener import progress_listener


def test_the_whole_runs_time_is_shown_beside_the_stages(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "LINE_EVERY_S", 0.0)
    with progress_listener(quiet=False) as shown:
        shown.stage("rehearsal", 4)
        shown.advance(1)
        shown.record("expected", {"before_s": [60, 120], "steps_s": [600, 900], "after_s": [300, 600]})
        shown.advance(2, "note")
    first, second, _ = capsys.readouterr().err.splitlines()
    assert "whole run" not in first
    assert second.endswith("note, whole run: 16m00s to 27m00s left")


def test_a_notice_stands_above_the_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """It was printed behind the bar, on the same line."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    with progress_listener(quiet=False) as shown:
        shown.stage("loading", 2)
        shown.advance(1)
        shown.notice("memory is short")
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "memory is short" in line)
    assert re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).strip() == "note: memory is short"


def test_without_an_expectation_only_the_stage_is_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "LINE_EVERY_S", 0.0)
    with progress_listener(quiet=False) as shown:
        shown.stage("questions", 4)
        shown.advance(1, "note")
        shown.record("verdict", {"verdict": "pass"})
        shown.advance(2, "note")
    assert "whole run" not in capsys.readouterr().err
