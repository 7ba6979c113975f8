"""Filter stage for Markdown links: the link's text stays, images are removed, a later stage removes the address."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

import regex

from mlx_loopai.text.seams import SEAM, in_code_after

_SCHEME = r"(?:https?://|ftp://|www\.)"
_ADDRESS = rf"{_SCHEME}(?:[^\s()<>\[\]`\x00\x01]|\([^\s()<>\[\]`\x00\x01]{{0,40}}\)){{0,400}}"
_MAX_TEXT_CHARS = 200
_MAX_BEFORE_CHARS = len("]( <https")
# Every part is bounded and stays on one line, so the text that is held back is bounded too.
_LINK = regex.compile(
    rf"!?\[(?P<text>[^\[\]\n`\x01]{{0,{_MAX_TEXT_CHARS}}})\]\( ?<?{_ADDRESS}>?"
    r"(?: {1,2}[\"'][^\"'\n`\x01]{0,100}[\"'])? ?\)"
    rf"|<(?P<bare>{_ADDRESS})>"
)
# What comes before the address of a link, and what every address holds. They are searched first, which is fast.
_BEFORE = regex.compile(r"(?:\]\( ?<?|<)(?:https?|ftp)?\Z")
_HOLDS = ("://", "www.")


class Links:
    """Stage that turns [여기](https://a.kr) into 여기, and <https://a.kr> into its address; holds back one link.

    Links to anything but the web stay as they are, and so does text between backticks on a line.
    """

    def __init__(self, removed: Counter[str]) -> None:
        self._removed = removed
        self._held = ""
        self._in_code = False

    def feed(self, text: str) -> str:
        """The text without the marks of complete links."""
        text = self._held + text
        out: list[str] = []
        at = 0
        for place in _places(text):
            found = _LINK.match(text, place) if place >= at else None
            if found is None:
                continue
            out.append(self._passed(text[at : found.start()]))
            out.append(self._passed(found.group()) if self._in_code else self._taken_apart(found))
            at = found.end()
        end = _where_one_begins(text, at)
        out.append(self._passed(text[at:end]))
        self._held = text[end:]
        return "".join(out)

    def close(self) -> str:
        """What was held back, which has become no link."""
        held, self._held = self._held, ""
        return held

    def _passed(self, text: str) -> str:
        self._in_code = in_code_after(text, self._in_code)
        return text

    def _taken_apart(self, link: regex.Match[str]) -> str:
        if link["bare"]:
            return f"{SEAM}{link['bare']}{SEAM}"
        self._removed["url"] += 1
        return SEAM if link.group().startswith("!") else f"{SEAM}{link['text']}{SEAM}"


def _places(text: str) -> Iterator[int]:
    """Where links to addresses may begin, from left to right."""
    found = sorted(hit.start() for holds in _HOLDS if holds in text for hit in re.finditer(re.escape(holds), text))
    for address in found:
        before = _BEFORE.search(text, max(0, address - _MAX_BEFORE_CHARS), address)
        if before is None:
            continue
        place = before.start()
        if text[place] == "]":
            place = text.rfind("[", max(0, place - 1 - _MAX_TEXT_CHARS), place)
            place -= place > 0 and text[place - 1] == "!"
        yield place


def _where_one_begins(text: str, at: int) -> int:
    """Where a link begins that may go on after the text, at `at` or later; the text's end where none does."""
    bracket = text.rfind("[", at)
    places = [bracket - text.startswith("!", max(bracket - 1, at)) if bracket > at else bracket, text.rfind("<", at)]
    if text.endswith("!"):
        places.append(len(text) - 1)
    return min((place for place in places if place >= at and _LINK.match(text, place, partial=True)), default=len(text))
