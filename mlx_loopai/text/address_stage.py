"""Filter stage that removes web addresses, with the quotation marks, particle, label or command that belongs to one."""

from __future__ import annotations

from collections import Counter, deque

import regex

from mlx_loopai.text.addresses import (
    AFTER_ADDRESS,
    ENDS_LABELLED,
    HANGING,
    HELD,
    LABEL,
    LABEL_STARTS,
    MAX_COMMAND_CHARS,
    MAX_LABEL_CHARS,
    NAMED,
    PARTICLE,
    URL,
    address_starts,
    is_for_address,
    may_be_for_address,
)
from mlx_loopai.text.binding import attached
from mlx_loopai.text.run_patterns import BRACKETS, OPEN_ANGLE, QUOTES
from mlx_loopai.text.scanner import Scanner
from mlx_loopai.text.seams import CODE_END, in_code_after

# The beginning of an address at the end of the text so far.
_BEGUN = regex.compile(r"(?i:https?(?::/?)?|htt?|h|ftp(?::/?)?|ft?|w{1,3})\Z")
_MAX_BEGUN_CHARS = len("https:/")
# At most this many joined addresses are looked at together; a longer list counts as two.
_MAX_JOINED = 8


class Addresses(Scanner):
    """Stage that drops addresses outside inline code; holds back an address with the words that may belong to it.

    An address that is the predicate of its sentence stays (`주소는 https://a.kr입니다`).
    """

    def __init__(self, removed: Counter[str]) -> None:
        super().__init__(removed)
        self._in_code = False
        self._starts: deque[int] = deque()

    def _advance(self, text: str, final: bool) -> str:
        context = self._left[-1:]
        self._starts = deque(address_starts(context + self._held + text))
        return super()._advance(text, final)

    def _step(self) -> bool:
        buffer, at = self._buffer, self._at
        if self._in_code:
            found = CODE_END.search(buffer, at)
            self._at = found.end() if found else len(buffer)
            self._in_code = found is None
            return True
        while self._starts and self._starts[0] < at:
            self._starts.popleft()
        end = self._starts[0] if self._starts else len(buffer)
        self._in_code = in_code_after(buffer[at:end], False)
        if self._in_code:
            self._at = buffer.rfind("`", at, end) + 1
            return True
        if self._starts:
            return self._look_at(URL.match(buffer, end).span())
        self._at = end
        if not self._final:
            self._wait()
        return False

    def _look_at(self, address: tuple[int, int]) -> bool:
        """Drop an address, or keep it; False when the text after it must be seen first."""
        buffer, (start, end) = self._buffer, address
        pairs = self._quotes(start, end)
        joined = self._joined(end + pairs) if self._sees_behind(end) else None
        if joined is None:
            self._wait_at(start)
            return False
        line_start = self._line_start(start)
        if line_start is not None:
            line_end = buffer.find("\n", start, start + MAX_COMMAND_CHARS)
            if line_end < 0 and len(buffer) < start + MAX_COMMAND_CHARS and not self._final:
                self._at = line_start
                return False
            line_end = line_end if line_end >= 0 else min(len(buffer), start + MAX_COMMAND_CHARS)
            if is_for_address(buffer[line_start:start], buffer[start:line_end]):
                self._drop(line_start, line_end, "url")
                return True
        left = self._left_of(start)
        if HELD.match(buffer, end) or OPEN_ANGLE.search(left):
            self._at = end
        else:
            self._drop(*self._extent((start - pairs, end + pairs), joined, left), "url")
        return True

    def _joined(self, end: int) -> int | None:
        """The end of the words that belong to the address that ends at `end`, and of joined addresses; None to wait."""
        buffer = self._buffer
        for _ in range(_MAX_JOINED):
            if not self._sees_behind(end):
                return None
            hanging = HANGING.match(buffer, end).end()
            following = URL.match(buffer, hanging)
            if following is None:
                return int(hanging)
            if HELD.match(buffer, following.end()):
                return int(hanging)
            end = following.end()
        return int(end)

    def _sees_behind(self, end: int) -> bool:
        return self._final or AFTER_ADDRESS.match(self._buffer, end).end() < len(self._buffer)

    def _quotes(self, start: int, end: int) -> int:
        """How many quotation marks enclose an address."""
        buffer, n_leading, n = self._buffer, len(self._leading(start)), 0
        while n < n_leading and QUOTES.get(buffer[start - 1 - n]) == buffer[end + n : end + n + 1] != "":
            n += 1
        return n

    def _extent(self, address: tuple[int, int], end: int, left: str) -> tuple[int, int]:
        """Start and end of the text to remove with a (quoted) address; `end`: of the words that belong to it."""
        buffer, start = self._buffer, address[0]
        least = start - len(self._leading(start))
        particle = PARTICLE.match(buffer, address[1])
        if particle and start > self._done and NAMED.search(left):
            return start - 1, particle.start("form")
        if ENDS_LABELLED.match(buffer, end):
            start = label_before(buffer, start, self._done)
        encloses = start > least and BRACKETS.get(buffer[start - 1]) == buffer[end : end + 1]
        if encloses and attached(buffer, end + 1):
            # In 집 (…)에서 the particle belongs to the word before the brackets; the space before them is removed.
            return start - 1 - (start - 1 > self._done and buffer[start - 2] == " "), end + 1
        return start, end

    def _line_start(self, place: int) -> int | None:
        """Where the line of `place` begins, if a command or a label is before it and was not handed on; else None."""
        begin = max(self._buffer.rfind("\n", self._done, place) + 1, self._done)
        at_line_start = begin > self._done or self._left[-1:] in ("", "\n")
        if not at_line_start or place - begin > MAX_COMMAND_CHARS:
            return None
        return begin if may_be_for_address(self._buffer[begin:place]) else None

    def _wait(self) -> None:
        """Hold back the text that an address still to come may need."""
        buffer = self._buffer
        begun = _BEGUN.search(buffer, max(self._done, len(buffer) - _MAX_BEGUN_CHARS))
        place = begun.start() if begun else len(buffer)
        line_start = self._line_start(place)
        if line_start is not None:
            self._at = line_start
        else:
            self._wait_at(place)

    def _wait_at(self, place: int) -> None:
        line_start = self._line_start(place)
        if line_start is not None:
            self._at = line_start
            return
        place = label_before(self._buffer, place - len(self._leading(place)), self._done, whole=False)
        self._at = place - (place > self._done and self._buffer[place - 1] == " ")


def label_before(buffer: str, end: int, done: int, whole: bool = True) -> int:
    """Where the label ("출처: ") that ends at `end` begins; `end` without one. Unless `whole`, a begun label counts."""
    least = max(done, end - MAX_LABEL_CHARS)
    start = max(buffer.rfind(one, max(least - 1, 0), end) for one in LABEL_STARTS) + 1
    return start if start >= least and LABEL.fullmatch(buffer, start, end, partial=not whole) else end
