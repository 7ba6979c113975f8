"""An answer with the text around it, and its form in all conversations of the same roles."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

# A text's place: its number between two characters for private use, which no text holds.
_START, _END = "\U0010f000", "\U0010f001"
# What no plain text holds.
NOT_IN_PLAIN = "<"
_PLACE = re.compile(f"{_START}([0-9]+){_END}")


@dataclass(frozen=True)
class Turn:
    """An answer and the text around it. before: from the end of the previous answer's closing up to this answer.

    taught: whether it is learnt; otherwise it is read as context.
    """

    before: str
    answer: str
    closing: str  # the end-of-turn marker, without the line break after it
    taught: bool = True


@dataclass(frozen=True)
class TurnForm:
    """A turn without the texts of messages: `before % texts` is read before the text number `answer`."""

    before: str
    texts: tuple[int, ...]
    answer: int
    closing: str

    @staticmethod
    def of(turn: Turn) -> TurnForm:
        """turn: that of a conversation in which each text is its `place`."""
        start, *rest = _PLACE.split(turn.before.replace("%", "%%"))
        before = start + "".join("%s" + text for text in rest[1::2])
        (answer,) = _PLACE.findall(turn.answer)
        return TurnForm(before, tuple(map(int, rest[::2])), int(answer), turn.closing)

    def filled(self, texts: Sequence[str]) -> Turn:
        """The turn in a conversation of these texts."""
        return Turn(self.before % tuple([texts[at] for at in self.texts]), texts[self.answer], self.closing)


def place(number: int) -> str:
    """What stands for the text of a conversation's message."""
    return f"{_START}{number}{_END}"


def holds_places(text: str) -> bool:
    """Whether `text` could be taken for one with places."""
    return _START in text or _END in text


def is_plain(text: str) -> bool:
    """Whether it may be put in its place: templates look for tags in texts, and for white space around them."""
    return text != "" and NOT_IN_PLAIN not in text and not text[0].isspace() and not text[-1].isspace()
