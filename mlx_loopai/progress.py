"""Progress of long work: one form of callback for every room."""

from __future__ import annotations

from typing import Protocol


class Advance(Protocol):
    """Called with how many items are done in all, and a note such as the name of the part that is running."""

    def __call__(self, done: int, note: str = "", /) -> object: ...


def ignore(done: int, note: str = "", /) -> None:
    """The callback of a caller that wants no progress."""


def part(whole: Advance, before: int, name: str) -> Advance:
    """The callback of a part called `name` of longer work, of which `before` items were done when the part began."""

    def advance(done: int, note: str = "", /) -> None:
        whole(before + done, note or name)

    return advance
