"""Progress of long work, as a protocol: the command line draws it, a program may count it or ignore it."""

from __future__ import annotations

import time
from typing import Protocol

from mlx_loopai.runs.directory import RunDirectory

_RECORD_EVERY_S = 2.0


class Listener(Protocol):
    """Hears what a run does."""

    def notice(self, text: str) -> None:
        """Something the user should know, one line."""

    def stage(self, name: str, total: int) -> None:
        """A countable stage begins."""

    def advance(self, done: int, note: str = "") -> None:
        """`done` of the stage's total is done."""


class Silent:
    """The listener of a caller that wants to hear nothing."""

    def notice(self, text: str) -> None:
        pass

    def stage(self, name: str, total: int) -> None:
        pass

    def advance(self, done: int, note: str = "") -> None:
        pass


class Recorded:
    """A listener that also writes what it hears to the run's log, for those who watch the run from elsewhere."""

    def __init__(self, heard: Listener, directory: RunDirectory) -> None:
        self._heard, self._directory = heard, directory
        self._next = 0.0

    def notice(self, text: str) -> None:
        self._heard.notice(text)
        self._directory.record("notice", text=text)

    def stage(self, name: str, total: int) -> None:
        self._heard.stage(name, total)
        self._directory.record("stage", name=name, total=total)
        self._next = time.monotonic() + _RECORD_EVERY_S

    def advance(self, done: int, note: str = "") -> None:
        self._heard.advance(done, note)
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _RECORD_EVERY_S
            self._directory.record("progress", done=done)
