"""The two stages that remove markup: code fences, then HTML."""

from __future__ import annotations

from collections import Counter
from enum import Enum, auto

import regex

from mlx_loopai.text.seams import BREAK, LINE_ENDS, MARKS, SEAM

_FENCE_TICKS = 3


class Fences:
    """Stage that drops fenced code with its content; inline code, between fewer backticks, stays.

    Any run of three or more backticks opens a fence and the next run at least as long closes it, wherever on the
    line it stands: models often forget the line break. An open fence runs to the end of the text.
    """

    def __init__(self, removed: Counter[str]) -> None:
        self._removed = removed
        self._ticks = 0
        self._fence = 0

    def feed(self, text: str) -> str:
        """The text outside fences; code is dropped as it comes, so nothing is held back."""
        if not self._ticks and "`" not in text:
            return "" if self._fence else text
        out: list[str] = []
        for char in text:
            if char == "`":
                self._ticks += 1
                continue
            if self._ticks:
                self._end_of_run(out)
            if not self._fence:
                out.append(char)
        return "".join(out)

    @property
    def at_rest(self) -> bool:
        """True outside fences and runs of backticks."""
        return not self._ticks and not self._fence

    def close(self) -> str:
        """The mark of a run that ends the text."""
        out: list[str] = []
        if self._ticks:
            self._end_of_run(out)
        return "".join(out)

    def _end_of_run(self, out: list[str]) -> None:
        ticks, self._ticks = self._ticks, 0
        if self._fence:
            if ticks >= self._fence:
                self._fence = 0
        elif ticks >= _FENCE_TICKS:
            self._fence = ticks
            self._removed["code"] += 1
            out.append(BREAK)
        else:
            out.append("`" * ticks)


class _State(Enum):
    START = auto()
    SLASH = auto()
    BANG = auto()
    BANG_DASH = auto()
    NAME = auto()
    AFTER_NAME = auto()
    ATTRIBUTES = auto()
    COMMENT = auto()
    NOT_A_TAG = auto()


_IN_TAG = frozenset((_State.NAME, _State.AFTER_NAME, _State.ATTRIBUTES))
# After a tag name these say that the angle brackets enclose a Korean title, <TV 동물농장> or <I, 로봇>.
_TITLE_CHAR = regex.compile(r"[\p{Hangul},·&+~!?…]")
_NAME_CHAR = regex.compile(r"[A-Za-z0-9:_\-]")
_NAME = regex.compile(r"</?([A-Za-z][A-Za-z0-9]*)")
_BLOCK_TAG = regex.compile(
    r"address|article|blockquote|br|d[dlt]|div|figure|footer|h[1-6r]|header|li|ol|p|pre|section|table|tr|ul"
)
_RAW_TEXT_TAGS = frozenset(("script", "style"))
_MAX_TAG_CHARS = 400


def _advance(state: _State, char: str) -> _State:
    """The state of an open `<` after one more character of it."""
    letter = char.isascii() and char.isalpha()
    match state:
        case _State.START if char in "/!":
            return _State.SLASH if char == "/" else _State.BANG
        case _State.START | _State.SLASH:
            return _State.NAME if letter else _State.NOT_A_TAG
        case _State.BANG if char == "-":
            return _State.BANG_DASH
        case _State.BANG:
            return _State.ATTRIBUTES if letter else _State.NOT_A_TAG
        case _State.BANG_DASH:
            return _State.COMMENT if char == "-" else _State.NOT_A_TAG
        case _State.NAME | _State.AFTER_NAME:
            if char.isspace():
                return _State.AFTER_NAME
            if _TITLE_CHAR.match(char):
                return _State.NOT_A_TAG
            in_name = state is _State.NAME and _NAME_CHAR.match(char)
            return _State.NAME if in_name else _State.ATTRIBUTES
    return state


class Html:
    """Stage that drops tags, comments, and scripts and styles with their content.

    As in HTML a tag name starts with an ASCII letter, so `<제목>` and `3 < 5` stay, and so does what stands between
    backticks on a line: `Vec<u8>`. Open `<` form a stack: when an
    inner tag is dropped the outer one goes on, and so no removal can leave a new tag behind.
    """

    def __init__(self, removed: Counter[str]) -> None:
        self._removed = removed
        self._open: list[list[str]] = []
        self._states: list[_State] = []
        self._held = 0
        self._until = ""
        self._window = ""
        self._in_code = False

    def feed(self, text: str) -> str:
        """The text without tags; an open `<` that may become a tag is held back for at most 400 characters."""
        if self.at_rest and "<" not in text and "`" not in text:
            return text
        out: list[str] = []
        for char in text:
            if self._until:
                self._skip(char, out)
            elif not self._open and (char == "`" or self._in_code):
                out.append(char)
                self._in_code = char not in LINE_ENDS and (char == "`") != self._in_code
            elif char == "<":
                self._open.append([char])
                self._states.append(_State.START)
                self._held += 1
            elif not self._open:
                out.append(char)
            else:
                self._continue(char, out)
            if self._held > _MAX_TAG_CHARS:
                self._give_up_on_first(out)
        return "".join(out)

    @property
    def at_rest(self) -> bool:
        """True outside tags, comments, scripts and inline code."""
        return not self._open and not self._until and not self._in_code

    def close(self) -> str:
        """The open `<` that never became a tag, as they are."""
        return "".join(self._take_all())

    def _continue(self, char: str, out: list[str]) -> None:
        if char in MARKS:
            self._open[-1].append(char)
            self._held += 1
            # The seam may become a space or nothing; the state after a name is right for both.
            if self._states[-1] is _State.NAME:
                self._states[-1] = _State.AFTER_NAME
            return
        if char == ">" and self._states[-1] in _IN_TAG:
            self._drop_tag(out)
            return
        state = _advance(self._states[-1], char)
        if state is _State.NOT_A_TAG:
            out.extend(self._take_all())
            out.append(char)
        elif state is _State.COMMENT:
            self._pop()
            self._removed["html"] += 1
            self._until = "-->"
        else:
            self._states[-1] = state
            self._open[-1].append(char)
            self._held += 1

    def _drop_tag(self, out: list[str]) -> None:
        tag = "".join(char for char in self._pop() if char not in MARKS)
        self._removed["html"] += 1
        found = _NAME.match(tag)
        name = found.group(1).lower() if found else ""
        if name in _RAW_TEXT_TAGS and not tag.startswith("</") and not tag.endswith("/"):
            self._until = f"</{name}"
        self._mark(BREAK if _BLOCK_TAG.fullmatch(name) else SEAM, out)

    def _skip(self, char: str, out: list[str]) -> None:
        """Drop the content of a comment or a script; `_until` is what ends it."""
        if char in MARKS:
            return
        self._window = (self._window + char.lower())[-len(self._until) :]
        if self._window != self._until:
            return
        self._window = ""
        # After the name of a closing tag, attributes and spaces are dropped up to its bracket.
        self._until = ">" if self._until.startswith("</") else ""
        if not self._until:
            self._mark(SEAM, out)

    def _mark(self, mark: str, out: list[str]) -> None:
        if not self._open:
            out.append(mark)
        elif self._open[-1][-1] != mark:
            self._continue(mark, out)

    def _pop(self) -> list[str]:
        self._states.pop()
        chars = self._open.pop()
        self._held -= len(chars)
        return chars

    def _take_all(self) -> list[str]:
        chars = [char for candidate in self._open for char in candidate]
        self._open, self._states, self._held = [], [], 0
        return chars

    def _give_up_on_first(self, out: list[str]) -> None:
        """Release the oldest open `<` without its bracket, so that a `>` far away cannot make a tag of it later."""
        self._removed["html"] += 1
        first = self._open.pop(0)
        self._states.pop(0)
        self._held -= len(first)
        out.append(SEAM)
        out.extend(first[1:])
