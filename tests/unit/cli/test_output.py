"""Results on stdout, progress on stderr."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from mlx_loopai.cli import output


@dataclass(frozen=True)
class _Result:
    path: Path
    scores: tuple[float, ...]


def test_emit_writes_one_json_document(capsys: pytest.CaptureFixture[str]) -> None:
    document = {
        "한": np.float32(0.5),
        "n": np.int64(3),
        "r": _Result(Path("/a"), (1.0, math.nan)),
        "a": np.arange(2),
        1: None,
    }
    output.emit(document, as_json=True, text="unused")
    shown = capsys.readouterr().out
    assert json.loads(shown) == {"한": 0.5, "n": 3, "r": {"path": "/a", "scores": [1.0, None]}, "a": [0, 1], "1": None}
    assert shown.count("\n") == 1
    assert "한" in shown


def test_emit_writes_text_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    output.emit({"a": 1}, as_json=False, text="done")
    output.emit({"a": 1}, as_json=False, text="")
    assert capsys.readouterr().out == "done\n"


def test_plain_lines_when_stderr_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "LINE_EVERY_S", 0.0)
    with output.progress(3, "training", unit="rows") as bar:
        bar.advance(note="loss 2.0")
        bar.update(3, note="loss 1.0")
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert captured.out == ""
    assert lines[0].startswith("training: 1 of 3 rows, ")
    assert " left" in lines[0]
    assert lines[0].endswith("loss 2.0")
    assert lines[-1].startswith("training: 3 of 3 rows, ")
    assert "took " in lines[-1]


def test_an_item_that_takes_long_does_not_make_the_program_silent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "LONGEST_SILENCE_S", 0.01)
    shown = ""
    with output.progress(2, "rehearsal") as bar:
        bar.advance()
        while shown.count("\n") < 2:  # nothing is done meanwhile; the suite's time limit ends a program that is silent
            shown += capsys.readouterr().err
    assert {line.split(",")[0] for line in shown.splitlines()} == {"rehearsal: 1 of 2"}


def test_bytes_are_shown_as_people_read_them(capsys: pytest.CaptureFixture[str]) -> None:
    with output.progress(2 << 20, "saving", unit="bytes") as bar:
        bar.advance(1 << 20)
    assert capsys.readouterr().err.startswith("saving: 1.0 MiB of 2.0 MiB, ")


def test_an_unknown_total(capsys: pytest.CaptureFixture[str]) -> None:
    with output.progress(None, "reading") as bar:
        bar.advance(5)
    assert capsys.readouterr().err.startswith("reading: 5, ")


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with output.progress(1, "training", quiet=True) as bar:
        bar.advance()
    captured = capsys.readouterr()
    assert captured.err == captured.out == ""


def test_a_bar_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with output.progress(4, "training") as bar:
        bar.advance(2, note="loss 2.0")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "training" in shown.err
    assert "2/4" in shown.err


def test_an_error_passes_through_unchanged() -> None:
    with pytest.raises(ValueError, match="odd"), output.progress(1, "training", quiet=True):
        raise ValueError("odd")


def test_a_mac_stays_awake_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    ended: list[str] = []

    class _Process:
        def __init__(self, command: list[str], **_: object) -> None:
            started.append(command)

        def terminate(self) -> None:
            ended.append("terminate")

        def wait(self) -> None:
            ended.append("wait")

    monkeypatch.setattr(output.sys, "platform", "darwin")
    monkeypatch.setattr(subprocess, "Popen", _Process)
    with output.keep_awake():
        assert started[0][:3] == ["caffeinate", "-i", "-w"]
        assert ended == []
    assert ended == ["terminate", "wait"]
