"""`chat` in a real terminal: a paste is one request, Ctrl-C stops an answer, --continue goes on."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pty = pytest.importorskip("pty", reason="this system has no pseudo-terminals")

PARAGRAPHS = ("첫 문단입니다.", "둘째 문단입니다.", "셋째 문단입니다.")
PASTE = "\x1b[200~" + "\r\n\r\n".join(PARAGRAPHS) + "\x1b[201~"
ENTER, CTRL_C, CTRL_D = "\r", "\x03", "\x04"
# What the line says when it takes keys: pasted text is to be marked as such.
READY, SENT = "\x1b[?2004h", "\x1b[?2004l"
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A program in a pseudo-terminal: what it shows, and keys that are pressed."""

    def __init__(self, *arguments: str) -> None:
        self.process, self._handle = pty.fork()
        if self.process == 0:
            os.execv(sys.executable, [sys.executable, "-m", "mlx_loopai", *arguments])
        self.shown = ""
        self.status: int | None = None

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.status is None:  # the test failed before the program was asked to end
            os.kill(self.process, signal.SIGKILL)
            self.end()

    def press(self, keys: str) -> None:
        os.write(self._handle, keys.encode())

    def wait_for(self, text: str, since: int = 0) -> int:
        """Wait until `text` is shown after the place `since`. Returns: the place after it."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            found = self.shown.find(text, since)
            if found >= 0:
                return found + len(text)
            self._read()
        raise AssertionError(f"{text!r} was not shown: {self.shown[-2000:]!r}")

    def wait_for_more(self, since: int) -> None:
        """Wait until something that can be seen is shown after the place `since`."""
        deadline = time.monotonic() + 120
        while not _ESCAPES.sub("", self.shown[since:]).strip():
            assert time.monotonic() < deadline
            self._read()

    def end(self) -> int:
        while self._read():
            pass
        _, status = os.waitpid(self.process, 0)
        os.close(self._handle)
        self.status = os.waitstatus_to_exitcode(status)
        return self.status

    def _read(self) -> bool:
        """Take what is shown within a second. Returns: False when the program has ended."""
        if not select.select([self._handle], [], [], 1.0)[0]:
            return True
        try:
            piece = os.read(self._handle, 1 << 16)
        except OSError:  # Linux says so when the program has ended
            return False
        self.shown += piece.decode("utf-8", "replace")
        return bool(piece)


@pytest.fixture
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_LOOPAI_CACHE", str(tmp_path))
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("PROMPT_TOOLKIT_NO_CPR", "1")  # nobody answers where the cursor is
    monkeypatch.delenv("COLUMNS", raising=False)


def turns(tmp_path: Path) -> list[dict[str, Any]]:
    (file,) = (tmp_path / "chats").glob("*.jsonl")
    found: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["messages"]
    return found


@pytest.mark.usefixtures("_home")
def test_a_session_and_the_next_one(tmp_path: Path) -> None:
    with Terminal("chat", "--temperature", "0", "--max-tokens", "60") as terminal:
        place = terminal.wait_for("nano; Ctrl-D leaves")
        place = terminal.wait_for(READY, place)
        terminal.press(PASTE)
        place = terminal.wait_for(PARAGRAPHS[-1], place)
        assert not list((tmp_path / "chats").glob("*.jsonl"))  # nothing was sent yet
        terminal.press(ENTER)
        place = terminal.wait_for(READY, place)
        (asked, answered) = turns(tmp_path)
        assert asked["content"] == "\n\n".join(PARAGRAPHS)
        assert answered["role"] == "assistant"

        terminal.press("/set max_tokens 900" + ENTER)
        place = terminal.wait_for("max_tokens: 900", place)
        place = terminal.wait_for(READY, place)
        terminal.press("호랑이 이야기를 들려줘." + ENTER)
        place = terminal.wait_for(SENT, place)
        terminal.wait_for_more(place)
        terminal.press(CTRL_C)
        place = terminal.wait_for(" …", place)
        place = terminal.wait_for(READY, place)
        terminal.press(CTRL_D)
        assert terminal.end() == 0
    assert [turn.get("weight") for turn in turns(tmp_path)] == [None, answered.get("weight"), None, 0]

    with Terminal("chat", "--continue") as terminal:
        place = terminal.wait_for("the conversation goes on after 2 exchanges")
        terminal.wait_for(READY, place)
        terminal.press(CTRL_D)
        assert terminal.end() == 0
