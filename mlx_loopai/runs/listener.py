"""Progress of long work, as a protocol: the command line draws it, a program may count it or ignore it."""

from __future__ import annotations

from typing import Protocol


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
