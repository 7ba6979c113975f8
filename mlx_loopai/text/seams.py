"""Closes the gaps that removals leave in text, and changes nothing else.

Every stage of the filter puts a `SEAM` where it removed something, or a `BREAK` if that was a line break. The stage
`Tidy` replaces each seam together with the white space around it. Text without a seam passes through byte for byte,
which makes the whole filter safe for clean prose. Both marks are control characters, which the first stage removes from
the input, so they cannot be forged.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from itertools import groupby

import regex

SEAM = "\x00"
BREAK = "\x01"
MARKS = frozenset((SEAM, BREAK))
LINE_ENDS = f"\n{BREAK}"
# Inline code stands between backticks on one line.
CODE_END = re.compile(rf"[`{LINE_ENDS}]")

_NO_SPACE_BEFORE = frozenset(".,!?…:;~)]}）」』》〉”’。，")
_NO_SPACE_AFTER = frozenset("([{（「『《〈“‘")
_OPENERS = '([{（「『《〈“‘〔"'
_CLOSER = dict(zip(_OPENERS, ')]}）」』》〉”’〕"', strict=True))
_MAX_OPENERS = 8
# The gaps of a text are few, and most are short. Longer ones would make the memory of their fillings large.
_MAX_REMEMBERED_CHARS = 16
# Length of the longest beginning that must not be continued: that of an entity.
_TAIL_CHARS = 36

# Text that can be handed on; what follows it waits for its right neighbour.
_SETTLED = re.compile(rf".*[^\s{SEAM}{BREAK}{re.escape(_OPENERS)}]", re.DOTALL)
_TAG_START = regex.compile(r"<(?:/|!-?)?$")
_CHAT_TOKEN_START = regex.compile(r"<(?:[|｜][A-Za-z0-9_▁\-]*[|｜]?)?$")
_IN_CHAT_TOKEN = regex.compile(r"[A-Za-z0-9_▁\-|｜>]")
_CHAT_MARK_START = regex.compile(r"(?:\[/?|<</?)[A-Z_]*$")
_IN_CHAT_MARK = regex.compile(r"[A-Z_/\]>]")
_ENTITY_START = regex.compile(r"&(?:#?|#[0-9]{1,7}|#[xX][0-9a-fA-F]{0,6}|[A-Za-z][A-Za-z0-9]{0,31})$")
_URL_START = regex.compile(r"(?:(?:https?|ftp)(?::/?)?|www)$", regex.I)
_TRAILING_MARKS = regex.compile(r"\p{M}++$")
_HANGUL = regex.compile(r"\p{Hangul}")


@lru_cache(maxsize=1 << 14)
def extends(char: str) -> bool:
    """True when `char` may combine with what precedes it (marks, conjoining vowels and finals, Kirat Rai vowels)."""
    code = ord(char)
    if code < 0x300:
        return False
    is_jamo = 0x1160 <= code <= 0x11FF or 0xD7B0 <= code <= 0xD7FB
    return is_jamo or 0x16D63 <= code <= 0x16D6A or unicodedata.category(char)[0] == "M"


def in_code_after(text: str, in_code: bool) -> bool:
    """Whether inline code is open after `text`, when `in_code` says whether it was before."""
    if "`" not in text:
        return in_code and "\n" not in text and BREAK not in text
    start = max(text.rfind("\n"), text.rfind(BREAK)) + 1
    return (in_code and not start) ^ (text.count("`", start) % 2 == 1)


def find_outside_code(text: str, sign: str, at: int, in_code: bool) -> tuple[int, bool]:
    """(next place of `sign` outside inline code, or -1; whether code is open there or at the text's end)."""
    while (place := text.find(sign, at)) >= 0:
        if not in_code_after(text[at:place], in_code):
            return place, False
        code_end = CODE_END.search(text, place)
        if code_end is None:
            return -1, True
        at, in_code = code_end.end(), False
    return -1, in_code_after(text[at:], in_code)


class Tidy:
    """Stage that removes seams; holds back white space and opening brackets until it sees what follows."""

    def __init__(self) -> None:
        self._tail = ""
        self._gap: list[str] = []
        self._gap_is_marked = False
        self._openers: list[tuple[str, str]] = []
        self._inside_quotes = False

    def feed(self, text: str) -> str:
        """The part of the text whose surroundings are known."""
        out: list[str] = []
        for stretch in _stretches(text):
            if stretch in MARKS:
                self._gap.append(stretch)
                self._gap_is_marked = True
                continue
            at = 0
            while at < len(stretch) and not self._at_rest:
                self._look_at(stretch[at], out)
                at += 1
            settled = _SETTLED.match(stretch, at)
            if settled:
                self._pass(settled.group(), out)
                at = settled.end()
            for char in stretch[at:]:
                self._look_at(char, out)
        return "".join(out)

    @property
    def _at_rest(self) -> bool:
        """True when only white space is held back, and none of it touches a seam."""
        return not self._openers and not self._gap_is_marked

    def _pass(self, text: str, out: list[str]) -> None:
        """Text without seams, from a state of rest, that ends with neither white space nor a bracket."""
        passed = self._take_gap() + text
        line_start = text.rfind("\n") + 1
        if line_start:
            self._inside_quotes = False
        self._inside_quotes ^= text.count('"', line_start) % 2 == 1
        self._tail = (self._tail + passed[-_TAIL_CHARS:])[-_TAIL_CHARS:]
        out.append(passed)

    def _look_at(self, char: str, out: list[str]) -> None:
        if char.isspace():
            self._gap.append(char)
            if char == "\n":
                self._inside_quotes = False
        else:
            self._settle(char, out)

    def close(self) -> str:
        """What was held back."""
        out: list[str] = []
        self._release_openers(out)
        out.append(close_gap(self._tail, self._take_gap(), ""))
        return "".join(out)

    def _take_gap(self) -> str:
        gap = "".join(self._gap)
        self._gap, self._gap_is_marked = [], False
        return gap

    def _settle(self, char: str, out: list[str]) -> None:
        gap = self._take_gap()
        if not self._openers and char not in _CLOSER:
            self._emit(gap, char, out)
            return
        if self._openers and SEAM in gap and "\n" not in gap and _CLOSER[self._openers[-1][1]] == char:
            before, _ = self._openers.pop()
            self._gap, self._gap_is_marked = [before, SEAM], True
            self._inside_quotes &= char != '"'
            return
        closes = char == '"' and self._inside_quotes
        if closes and not MARKS.isdisjoint(gap) and "\n" not in gap:
            gap = SEAM
        opens = char in _CLOSER and not closes
        if char == '"':
            self._inside_quotes = not self._inside_quotes
        if opens:
            if len(self._openers) == _MAX_OPENERS:
                self._release_openers(out)
            self._openers.append((gap, char))
            return
        self._release_openers(out)
        self._emit(gap, char, out)

    def _release_openers(self, out: list[str]) -> None:
        for gap, opener in self._openers:
            self._emit(gap, opener, out)
        self._openers = []

    def _emit(self, gap: str, char: str, out: list[str]) -> None:
        filling = close_gap(self._tail, gap, char) if gap else ""
        out.append(filling)
        out.append(char)
        self._tail = (self._tail + filling + char)[-_TAIL_CHARS:]


def tidied(text: str) -> str:
    """A whole text without its seams."""
    tidy = Tidy()
    return tidy.feed(text) + tidy.close()


def _stretches(text: str, marks: str = SEAM + BREAK) -> Iterator[str]:
    """The text in parts: the marks one by one, and the text between them. `split` is the fastest way to find them."""
    mark, others = marks[0], marks[1:]
    for number, part in enumerate(text.split(mark)):
        if number:
            yield mark
        if others and others[0] in part:
            yield from _stretches(part, others)
        elif part:
            yield part


def close_gap(tail: str, gap: str, right: str) -> str:
    """The white space that belongs between `tail` (the last characters out) and the character `right`.

    `gap` is the white space and the marks between them; without a mark it is returned as it is. An empty `tail` is
    the beginning of the text, an empty `right` its end.
    """
    if MARKS.isdisjoint(gap):
        return gap
    if "\n" in gap:
        close = _remembered_lines if len(gap) <= _MAX_REMEMBERED_CHARS else _close_lines
        return close(gap, bool(tail), bool(right))
    if not right:
        return ""
    if not tail:
        return _indent(gap)
    if BREAK in gap:
        return "\n"
    spaced = any(char.isspace() for char in gap)
    if spaced and right not in _NO_SPACE_BEFORE and tail[-1] not in _NO_SPACE_AFTER:
        return " "
    return " " if _must_stay_apart(tail, right) else ""


def _close_lines(gap: str, tail: bool, right: bool) -> str:
    """`close_gap` for a gap over several lines: lines that a removal emptied go, and blank lines do not pile up.

    tail, right: whether there is text before the gap, and after it.
    """
    first, *middle, last = gap.split("\n")
    if not tail:
        middle.insert(0, first)
        first = ""
    end = ("\r" if first.endswith("\r") else "") if _touched(first) else first
    kept = [line for line in middle if not _touched(line)]
    if len(kept) < len(middle):
        runs = [list(lines) for untouched, lines in groupby(middle, lambda line: not _touched(line)) if untouched]
        kept = max(runs, key=len, default=[]) if tail and right else []
    lines = [end, *kept] if tail else kept
    start = _indent(last) if right else ("" if _touched(last) else last)
    return "\n".join([*lines, start])


_remembered_lines = lru_cache(maxsize=1 << 8)(_close_lines)


def _touched(line: str) -> bool:
    return not MARKS.isdisjoint(line)


def _indent(line: str) -> str:
    """The white space before the first mark: the indentation of a line whose beginning was removed."""
    for index, char in enumerate(line):
        if char in MARKS:
            return line[:index]
    return line


def _must_stay_apart(tail: str, right: str) -> bool:
    """True when joining the two would make something new: another word, a tag, an address or another character.

    This makes cleaning idempotent: no removal can create something that the next pass would remove.
    """
    if "가" <= tail[-1] <= "힣" or tail[-1] in " \n":
        return extends(right)
    if extends(right) or unicodedata.normalize("NFC", tail[-1] + right) != tail[-1] + right:
        return True
    left = _TRAILING_MARKS.sub("", tail)[-1:] or "0"
    if left.isalnum() and right.isalnum():
        return not (_HANGUL.match(left) or _HANGUL.match(right))
    if right.isascii() and (right.isalpha() or right in "/!-") and _TAG_START.search(tail):
        return True
    if _IN_CHAT_TOKEN.match(right) and _CHAT_TOKEN_START.search(tail) and (right != ">" or tail[-1] != "<"):
        return True
    if _IN_CHAT_MARK.match(right) and _CHAT_MARK_START.search(tail):
        return True
    if right == "`" == tail[-1]:
        return True
    if right.isascii() and (right.isalnum() or right in "#;") and _ENTITY_START.search(tail):
        return True
    return right in ":/." and _URL_START.search(tail) is not None
