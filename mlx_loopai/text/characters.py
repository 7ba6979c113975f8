"""The two stages that look at single characters: emoji and controls, then normalisation."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from enum import Enum, auto
from functools import lru_cache

import regex

from mlx_loopai.text.scripts import EMOJI, TEXT_SYMBOLS
from mlx_loopai.text.seams import SEAM, extends

_ZWJ, _KEYCAP = "\u200d", "\u20e3"
_VARIATION = frozenset("\ufe0e\ufe0f")
_KEYCAP_BASES = frozenset("0123456789#*")
_FLAG = regex.compile(r"\p{Regional_Indicator}")
_MODIFIER = regex.compile(r"[\p{EMod}\ufe0e\ufe0f\u20e3\U000E0020-\U000E007F]")

# Unicode's Stream-Safe Text Format (UAX #15): longer runs are an attack, and would make normalisation quadratic.
_MAX_MARKS = 30

# The characters of Korean prose without Latin letters: composed, no emoji, no marks, and only these four white spaces.
SIGNS_AND_HANGUL = (
    r" \t\r\n!-@\[-`{-~§°±·×÷\u2010-\u2027\u2030-\u203b\u20a9\u2190-\u2193\u2500-\u257f○●□■△▲▽▼◇◆☆★"
    r"\u3001-\u3003\u3008-\u3011\u3014-\u301b가-힣ㄱ-ㅎㅏ-ㅣ"
)
PLAIN = rf"{SIGNS_AND_HANGUL}A-Za-z"
# Both stages copy runs of these; the standard library's `re` runs over them some fifty times faster than `regex`.
_NO_EMOJI = re.compile(rf"[{PLAIN}\u4e00-\u9fff]+(?<![0-9#*](?=[\ufe0e\ufe0f\u20e3]|\Z))")
_COMPOSED = re.compile(rf"[{PLAIN}\u4e00-\u9fff{SEAM}]+")


class _Kind(Enum):
    PLAIN = auto()
    KEYCAP_BASE = auto()
    CONTROL = auto()
    PICTOGRAPH = auto()
    SYMBOL = auto()
    FLAG = auto()
    MODIFIER = auto()
    JOINER = auto()


@lru_cache(maxsize=1 << 14)
def _kind(char: str) -> _Kind:
    if char in _KEYCAP_BASES:
        return _Kind.KEYCAP_BASE
    if char == _ZWJ:
        return _Kind.JOINER
    if _MODIFIER.match(char):
        return _Kind.MODIFIER
    if _FLAG.match(char):
        return _Kind.FLAG
    if EMOJI.match(char):
        return _Kind.SYMBOL if char in TEXT_SYMBOLS else _Kind.PICTOGRAPH
    if unicodedata.category(char) in ("Cc", "Cf", "Cs") and char not in "\t\n\r":
        return _Kind.CONTROL
    return _Kind.PLAIN


def is_text(char: str, keep_emoji: bool) -> bool:
    """True for a character that `Characters` passes on when it is alone."""
    kind = _kind(char)
    return kind in (_Kind.PLAIN, _Kind.KEYCAP_BASE, _Kind.SYMBOL) or (keep_emoji and kind is _Kind.PICTOGRAPH)


class Characters:
    """Stage that drops control, bidi and zero-width characters and, unless they are kept, emoji sequences.

    Text symbols (☆ ★ ♥ ※ © ®) stay; only the variation selector that makes an emoji of them goes.
    """

    def __init__(self, removed: Counter[str], keep_emoji: bool = False) -> None:
        self._removed = removed
        self._keep_emoji = keep_emoji
        self._previous = ""
        self._keycap = ""
        self._in_sequence = False
        self._counted = False
        self._joined = False
        self._half_flag = False

    def feed(self, text: str) -> str:
        """The text without what this stage removes; at most a digit and a variation selector are held back."""
        out: list[str] = []
        at = 0
        while at < len(text):
            run = None if self._keycap else _NO_EMOJI.match(text, at)
            if run:
                self._pass(run.group(), out)
                at = run.end()
            else:
                self._look_at(text[at], out)
                at += 1
        return "".join(out)

    def close(self) -> str:
        """What was held back."""
        out: list[str] = []
        if self._keycap:
            self._held_keycap("", out)
        return "".join(out)

    def _pass(self, text: str, out: list[str]) -> None:
        self._in_sequence = self._joined = self._half_flag = False
        self._previous = text[-1]
        out.append(text)

    def _look_at(self, char: str, out: list[str]) -> None:
        kind = _kind(char)
        if self._keycap and self._held_keycap(char, out):
            return
        if kind is _Kind.PLAIN:
            self._pass(char, out)
        elif kind is _Kind.KEYCAP_BASE:
            self._in_sequence = self._joined = self._half_flag = False
            self._keycap = char
        elif kind is _Kind.CONTROL or (kind is _Kind.JOINER and not self._in_sequence):
            self._drop_control(out)
        else:
            self._emoji(char, kind, out)

    def _held_keycap(self, char: str, out: list[str]) -> bool:
        """Decide on a held keycap base; True when `char` was used up."""
        if char in _VARIATION and len(self._keycap) == 1:
            self._keycap += char
            return True
        held, self._keycap = self._keycap, ""
        if char == _KEYCAP and self._keep_emoji:
            out.append(held + char)
        elif char == _KEYCAP:
            self._removed["emoji"] += 1
            out.append(SEAM)
        else:
            out.append(held[0])
            self._previous = held[0]
            if len(held) > 1:
                self._removed["emoji"] += 1
        return char == _KEYCAP

    def _drop_control(self, out: list[str]) -> None:
        self._removed["control"] += 1
        # Inside a word the two sides belong together; only next to white space is there a gap to close.
        if not self._previous or self._previous.isspace():
            out.append(SEAM)

    def _emoji(self, char: str, kind: _Kind, out: list[str]) -> None:
        starts = not self._in_sequence or (kind in (_Kind.PICTOGRAPH, _Kind.SYMBOL) and not self._joined)
        if kind is _Kind.FLAG:
            starts, self._half_flag = not self._half_flag, not self._half_flag
        else:
            self._half_flag = False
        orphan = kind is _Kind.MODIFIER and not self._in_sequence
        if starts:
            self._counted = False
        # A symbol inside a joined sequence, such as the sign in a gendered pictograph, is part of the emoji.
        keep = (kind is _Kind.SYMBOL and starts) or (self._keep_emoji and not orphan)
        self._in_sequence = not orphan
        self._joined = kind is _Kind.JOINER
        if keep:
            out.append(char)
            self._previous = char
            return
        if not self._counted:
            self._removed["emoji"] += 1
            self._counted = True
        out.append(SEAM)


class Normalise:
    """Stage that brings the text to NFC, one base character with its marks at a time."""

    def __init__(self, removed: Counter[str]) -> None:
        self._removed = removed
        self._cluster = ""

    def feed(self, text: str) -> str:
        """The normalised text; the last base character is held back, since a mark may follow."""
        out: list[str] = []
        at = 0
        while at < len(text):
            run = _COMPOSED.match(text, at)
            if run:
                out += [self._flush(), run.group()[:-1]]
                at = run.end()
                self._cluster = text[at - 1]
            else:
                self._look_at(text[at], out)
                at += 1
        return "".join(out)

    def close(self) -> str:
        """What was held back."""
        return self._flush()

    def _look_at(self, char: str, out: list[str]) -> None:
        if not extends(char):
            out.append(self._flush())
            self._cluster = char
        elif len(self._cluster) <= _MAX_MARKS:
            self._cluster += char
        else:
            self._removed["control"] += 1

    def _flush(self) -> str:
        cluster, self._cluster = self._cluster, ""
        if cluster.isascii():
            return cluster
        composed = unicodedata.normalize("NFC", cluster)
        if composed != cluster:
            self._removed["nfc"] += 1
        return composed[: _MAX_MARKS + 1]
