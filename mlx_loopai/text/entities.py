"""Filter stage that decodes HTML entities: `&hellip;`, `&#8230;`."""

from __future__ import annotations

import html
import re
import unicodedata
from collections import Counter
from html.entities import html5

from mlx_loopai.text.characters import is_text
from mlx_loopai.text.seams import SEAM, extends, find_outside_code, in_code_after

_AMPERSAND = re.compile(r"(?:amp|AMP|#0{0,5}38|#[xX]0{0,4}26);")
_BODY = re.compile(r"(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_BODY_BEGUN = re.compile(r"(?:#?|#[0-9]{1,7}|#[xX][0-9a-fA-F]{0,6}|[A-Za-z][A-Za-z0-9]{0,31}|.{3,34};)\Z")


class Entities:
    """Stage that decodes entities outside inline code; the result is decoded again, so that `&amp;lt;` becomes `<`.

    A backtick stays an entity, since it would turn text into code; so does a character that would combine with its
    neighbours. Control characters are removed, and emoji unless they are kept.
    """

    def __init__(self, removed: Counter[str], keep_emoji: bool = False) -> None:
        self._removed = removed
        self._keep_emoji = keep_emoji
        self._held = ""
        self._in_code = False

    def feed(self, text: str) -> str:
        """The decoded text; an entity that may go on is held back, at most 35 characters."""
        if not self._held and "&" not in text:
            self._in_code = in_code_after(text, self._in_code)
            return text
        return self._decoded(self._held + text, final=False)

    def close(self) -> str:
        """What was held back."""
        return self._decoded(self._held, final=True) if self._held else ""

    def _decoded(self, text: str, final: bool) -> str:
        out: list[str] = []
        at = 0
        self._held = ""
        while True:
            found, self._in_code = find_outside_code(text, "&", at, self._in_code)
            if found < 0:
                break
            out.append(text[at:found])
            at = found + 1
            while ampersand := _AMPERSAND.match(text, at):
                self._removed["html"] += 1
                at = ampersand.end()
            if not final and _BODY_BEGUN.match(text, at):
                self._held = "&" + text[at:]
                return "".join(out)
            body = _BODY.match(text, at)
            out.append(self._character(body.group(), text[body.end() : body.end() + 1]) if body else "&")
            at = body.end() if body else at
        out.append(text[at:])
        return "".join(out)

    def _character(self, body: str, following: str) -> str:
        """What the entity of this body stands for, or the entity itself."""
        char = html.unescape(f"&{body}") if body.startswith("#") else html5.get(body, "")
        char = unicodedata.normalize("NFC", char)
        if len(char) != 1 or char == "`" or extends(char) or (following and extends(following)):
            return f"&{body}"
        self._removed["html"] += 1
        if char == "\xa0":
            return " "
        return char if is_text(char, self._keep_emoji) else SEAM
