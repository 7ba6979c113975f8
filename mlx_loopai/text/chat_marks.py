"""Filter stage that removes marks of chat formats that are not tags: `[INST]`, `<<SYS>>`, `### Response:`."""

from __future__ import annotations

import re
from collections import Counter

import regex

from mlx_loopai.text.seams import BREAK, SEAM, in_code_after

_TURNS = r"\[/?(?:INST|SYSTEM_PROMPT)\]|<</?SYS>>"
_NAMES = "AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|IMG|THINK|BOS|EOS|EOT|PAD|UNK|CLS|SEP|MASK"
_HEADINGS = "Instruction|Input|Output|Response|Question|Answer|Context|System|User|Human|Assistant"
_MARK = regex.compile(rf"(?P<turn>{_TURNS}|\#{{2,4}} ?(?:{_HEADINGS})s? ?: ?)|\[/?(?:{_NAMES})\]")
# Where a mark begins, or may begin at the end of the text. There is one expression for each first sign, because
# searching for a fixed sign is fast.
_BEGINS = {
    "[": re.compile(r"\[(?=/?(?:[A-Z]|\Z))"),
    "<": re.compile(r"<(?=<|\Z)"),
    "#": re.compile(r"##(?=#{0,2} ?(?:[A-Z]|\Z))|#\Z"),
}
# After a mark these show that the text is about it: [MASK] 토큰, [SEP]를.
_NAMED = re.compile(
    r"(?: ?(?:토큰|태그|마커|기호|문자)[가-힣]{0,2}|은|는|이|가|을|를|의|에|에서|으?로|와|과|도|만|이?라는|이?란)"
    r"(?=[\s.,!?)。，…\"'”’」』》〉]|\Z)"
)
# Characters after a mark that show whether the text is about it.
_AFTER_CHARS = 8


class ChatMarks:
    """Stage that drops such marks outside inline code; one that a Korean sentence names stays (`[MASK]를 쓴다`)."""

    def __init__(self, removed: Counter[str]) -> None:
        self._removed = removed
        self._held = ""
        self._in_code = False

    def feed(self, text: str) -> str:
        """The text without marks; holds back one that may go on, and a few characters behind it."""
        return self._without(self._held + text, final=False)

    def close(self) -> str:
        """What was held back."""
        return self._without(self._held, final=True)

    def _without(self, text: str, final: bool) -> str:
        out: list[str] = []
        at, self._held = 0, ""
        begun = (one for sign, begins in _BEGINS.items() if sign in text for one in begins.finditer(text))
        for place in sorted(one.start() for one in begun):
            if place < at:
                continue
            mark = _MARK.match(text, place, partial=not final)
            if mark is None:
                continue
            out.append(self._passed(text[at:place]))
            at = place
            if self._in_code:
                continue
            if not final and (mark.partial or len(text) < mark.end() + _AFTER_CHARS):
                self._held = text[place:]
                return "".join(out)
            if _NAMED.match(text, mark.end()) is None:
                self._removed["html"] += 1
                out.append(BREAK if mark["turn"] else SEAM)
                at = mark.end()
        out.append(self._passed(text[at:]))
        return "".join(out)

    def _passed(self, text: str) -> str:
        self._in_code = in_code_after(text, self._in_code)
        return text
