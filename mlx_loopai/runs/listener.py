"""The protocol by which long work reports its progress; the command line draws it, other programs may ignore it."""

from __future__ import annotations

import time
from typing import Protocol

from mlx_loopai.runs.directory import RunDirectory

_RECORD_EVERY_S = 2.0


class Listener(Protocol):
    """Receives the progress of a run."""

    def notice(self, text: str) -> None:
        """Something the user should know, one line."""

    def stage(self, name: str, total: int) -> None:
        """A stage of `total` items begins."""

    def advance(self, done: int, note: str = "") -> None:
        """`done` of the stage's items are done."""


class Silent:
    """A listener that ignores everything."""

    def notice(self, text: str) -> None:
        pass

    def stage(self, name: str, total: int) -> None:
        pass

    def advance(self, done: int, note: str = "") -> None:
        pass


class Recorded:
    """A listener that also writes notices and progress to the run's log, for those who watch it from elsewhere."""

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
