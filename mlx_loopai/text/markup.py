"""The two filter stages that remove markup: code fences, then HTML."""

from __future__ import annotations

import re
from collections import Counter
from enum import Enum, auto

import regex

from mlx_loopai.text.seams import BREAK, MARKS, SEAM, find_outside_code, in_code_after

_FENCE_TICKS = 3
_TICKS = re.compile("`+")
# Passes in one piece: text with runs of one or two backticks, up to a longer run or to one that may go on.
_WITHOUT_FENCE = re.compile(r"(?:[^`]++|`{1,2}+(?=[^`]))*+")


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
        if not (self._ticks or self._fence) and "```" not in text and text[-1:] != "`":
            return text
        out: list[str] = []
        at = 0
        while at < len(text):
            if text[at] == "`":
                run = _TICKS.match(text, at)
                assert run
                self._ticks += len(run.group())
                at = run.end()
                continue
            if self._ticks:
                self._end_of_run(out)
            if self._fence:
                end = text.find("`", at)
                end = len(text) if end < 0 else end
            else:
                end = _WITHOUT_FENCE.match(text, at).end()  # type: ignore[union-attr]
                out.append(text[at:end])
            at = end
        return "".join(out)

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
    TOKEN = auto()
    TOKEN_END = auto()
    NOT_A_TAG = auto()


_IN_TAG = frozenset((_State.NAME, _State.AFTER_NAME, _State.ATTRIBUTES, _State.TOKEN_END))
# A chat template's tokens: <|im_end|>, <｜end▁of▁sentence｜>.
_BARS = frozenset("|｜")
_TOKEN_CHAR = regex.compile(r"[A-Za-z0-9_▁\-]")
# After these a chat template names who speaks, on the rest of the line or up to the next token.
_TURN_BEGINS = regex.compile(r"<[|｜](?:im_start|start_header_id|header_start|start)[|｜]|<start_of_turn")
_ROLES = ("system", "user", "assistant", "model", "tool", "developer")
# After a tag name, these show that the angle brackets enclose a Korean title: <TV 동물농장>, <I, 로봇>.
_TITLE_CHAR = regex.compile(r"[\p{Hangul},·&+~!?…]")
# <The Old Man and the Sea>: words, the first with a capital, and none of the signs of attributes.
_TITLE = regex.compile(r"<[A-Z][a-z]*+(?: [\w'’\-]++)+")
_NAME_CHAR = regex.compile(r"[A-Za-z0-9:_\-]")
_NAME = regex.compile(r"</?([A-Za-z][A-Za-z0-9]*)")
_BLOCK_TAGS = frozenset(
    "address article blockquote br dd dl dt div figure footer h1 h2 h3 h4 h5 h6 hr header li ol p pre section table tr "
    "ul".split()
)
# The contents of these are not for readers; the last three hold the thoughts of reasoning models.
_RAW_TEXT_TAGS = frozenset(("script", "style", "think", "thinking", "reasoning"))
_MAX_TAG_CHARS = 400
_ATTRIBUTES = re.compile(rf"[^<>{SEAM}{BREAK}]++")
# A simple tag whose content, if it has any, is kept.
_PLAIN_TAG = re.compile(
    r"</?(?!script|style|think|reasoning)([a-z][a-z0-9]{0,9})(?: [a-z\-]{1,20}=\"[^<>\"\x00\x01]{0,100}\")*>"
)


def _advance(state: _State, char: str) -> _State:
    """The state of an open `<` after one more character of it."""
    letter = char.isascii() and char.isalpha()
    match state:
        case _State.START if char in "/!":
            return _State.SLASH if char == "/" else _State.BANG
        case _State.START if char in _BARS:
            return _State.TOKEN
        case _State.TOKEN if char in _BARS:
            return _State.TOKEN_END
        case _State.TOKEN:
            return _State.TOKEN if _TOKEN_CHAR.match(char) else _State.NOT_A_TAG
        case _State.TOKEN_END:
            return _State.NOT_A_TAG
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
    """Stage that drops tags, comments, chat tokens, and scripts, styles and thinking with their content.

    As in HTML a tag name starts with an ASCII letter, so `<제목>` and `3 < 5` stay, and so does text between backticks
    on a line: `Vec<u8>`. Open `<` form a stack: when an inner tag is dropped, the outer one goes on. So no removal can
    leave a new tag behind.
    """

    def __init__(self, removed: Counter[str]) -> None:
        self._removed = removed
        self._open: list[list[str]] = []
        self._states: list[_State] = []
        self._held = 0
        self._until = ""
        self._window = ""
        self._in_code = False
        self._role: str | None = None  # of a turn that begins, as far as it has come

    def feed(self, text: str) -> str:
        """The text without tags; an open `<` that may become a tag is held back for at most 400 characters."""
        if not (self._open or self._until or "<" in text or self._role is not None):
            self._in_code = in_code_after(text, self._in_code)
            return text
        out: list[str] = []
        at = 0
        while at < len(text):
            if self._role is not None:
                at = self._take_role(text, at, out)
                continue
            go_on = self._look_at if self._until or self._open else self._pass
            at = go_on(text, at, out)
        return "".join(out)

    def close(self) -> str:
        """The held-back text after open `<` that never became a tag."""
        role, self._role = self._role or "", None
        return ("" if role in _ROLES else role) + "".join(self._take_all())

    def _take_role(self, text: str, at: int, out: list[str]) -> int:
        """Drop the name of the speaker, with the end of its line; other text passes."""
        assert self._role is not None
        if any(role.startswith(self._role + text[at]) for role in _ROLES):
            self._role += text[at]
            return at + 1
        role, self._role = self._role, None
        if role in _ROLES and text[at] in f"\n<{BREAK}":
            out.append(BREAK)
            return at + (text[at] == "\n")
        out.append(role)
        return at

    def _pass(self, text: str, at: int, out: list[str]) -> int:
        """Pass `text` on from `at` up to the next `<` outside inline code, or past its tag; returns where that ends."""
        found, self._in_code = find_outside_code(text, "<", at, self._in_code)
        if found < 0:
            out.append(text[at:])
            return len(text)
        out.append(text[at:found])
        tag = _PLAIN_TAG.match(text, found)
        if tag:
            self._removed["html"] += 1
            out.append(BREAK if tag.group(1) in _BLOCK_TAGS else SEAM)
            return tag.end()
        self._start_tag()
        return found + 1

    def _look_at(self, text: str, at: int, out: list[str]) -> int:
        """Continue at `at` inside an open `<`, or inside dropped content; returns where that ends."""
        if self._until:
            return self._skip(text, at, out)
        attributes = None
        if self._states[-1] is _State.ATTRIBUTES:
            attributes = _ATTRIBUTES.match(text, at, at + 1 + _MAX_TAG_CHARS - self._held)
        if attributes:
            self._open[-1].extend(attributes.group())
            self._held += len(attributes.group())
        elif text[at] == "<":
            self._start_tag()
        else:
            self._continue(text[at], out)
        if self._held > _MAX_TAG_CHARS:
            self._give_up_on_first(out)
        return attributes.end() if attributes else at + 1

    def _start_tag(self) -> None:
        self._open.append(["<"])
        self._states.append(_State.START)
        self._held += 1

    def _continue(self, char: str, out: list[str]) -> None:
        if char in MARKS:
            self._open[-1].append(char)
            self._held += 1
            # The seam may become a space or nothing; the state after a name is right for both.
            if self._states[-1] is _State.NAME:
                self._states[-1] = _State.AFTER_NAME
            return
        closes = char == ">" and self._states[-1] in _IN_TAG
        is_title = closes and _TITLE.fullmatch("".join(self._open[-1])) is not None
        if closes and not is_title:
            self._drop_tag(out)
            return
        state = _State.NOT_A_TAG if is_title else _advance(self._states[-1], char)
        if state is _State.NOT_A_TAG:
            out.extend(self._take_all())
            out.append(char)
            self._in_code ^= char == "`"
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
        self._mark(BREAK if name in _BLOCK_TAGS else SEAM, out)
        if not self._open and _TURN_BEGINS.fullmatch(tag):
            self._role = ""

    def _skip(self, text: str, at: int, out: list[str]) -> int:
        """Drop the content of a comment or a script from `at` on; `_until` is what ends it."""
        if self._until[0] not in self._window:
            at = text.find(self._until[0], at)
            if at < 0:
                return len(text)
        if text[at] in MARKS:
            return at + 1
        self._window = (self._window + text[at].lower())[-len(self._until) :]
        if self._window != self._until:
            return at + 1
        self._window = ""
        # After the name of a closing tag, attributes and spaces are dropped up to its bracket.
        self._until = ">" if self._until.startswith("</") else ""
        if not self._until:
            self._mark(SEAM, out)
        return at + 1

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
