"""The progress callback that all long-running functions take."""

from __future__ import annotations

from typing import Protocol


class Advance(Protocol):
    """Called with the number of items done so far, and a note such as the name of the part that is running."""

    def __call__(self, done: int, note: str = "", /) -> object: ...


def ignore(done: int, note: str = "", /) -> None:
    """A callback that does nothing."""


def part(whole: Advance, before: int, name: str = "") -> Advance:
    """The callback for a part, called `name`, of longer work of which `before` items were done when the part began."""

    def advance(done: int, note: str = "", /) -> None:
        whole(before + done, note or name)

    return advance
