"""Base class of filter stages that decide with a look ahead: it buffers the text that is not handed on yet."""

from __future__ import annotations

from collections import Counter

from mlx_loopai.text.run_patterns import LEADING
from mlx_loopai.text.seams import SEAM

MAX_LEFT_CHARS = 256
MAX_LEADING = 8


class Scanner:
    """A stage that goes through its text step by step; a subclass's `_step` keeps, drops, or waits for more.

    `_buffer` holds the text, `_done` is where what was handed on ends, `_at` where the next step begins.
    """

    def __init__(self, removed: Counter[str]) -> None:
        self._removed = removed
        self._held = ""
        self._left = ""
        self._buffer, self._at, self._done, self._final = "", 0, 0, False
        self._out: list[str] = []

    def feed(self, text: str) -> str:
        """The text that no later input can change, without what this stage removes."""
        return self._advance(text, final=False)

    def close(self) -> str:
        """What was held back."""
        return self._advance("", final=True)

    def _step(self) -> bool:
        """Take one step at `_at`; False when the text there must wait for more."""
        raise NotImplementedError

    def _advance(self, text: str, final: bool) -> str:
        # One kept character before the held ones, for patterns that look back by one.
        context = self._left[-1:]
        self._buffer = context + self._held + text
        self._at = self._done = len(context)
        self._final = final
        self._out = []
        while self._at < len(self._buffer) and self._step():
            pass
        self._keep_to(self._at)
        self._held = self._buffer[self._at :]
        return "".join(self._out)

    def _keep_to(self, end: int, removed: str = "") -> None:
        """Hand on the text up to `end`, and `removed` for what is dropped there."""
        piece = self._buffer[self._done : end] + removed
        self._out.append(piece)
        self._left = (self._left + piece[-MAX_LEFT_CHARS:])[-MAX_LEFT_CHARS:]
        self._done = end

    def _drop(self, start: int, end: int, rule: str) -> None:
        self._keep_to(start, SEAM)
        self._removed[rule] += 1
        self._done = self._at = end

    def _left_of(self, place: int) -> str:
        """The last kept characters before `place`."""
        left = self._buffer[max(self._done, place - MAX_LEFT_CHARS) : place]
        return left if len(left) == MAX_LEFT_CHARS else (self._left + left)[-MAX_LEFT_CHARS:]

    def _leading(self, end: int) -> str:
        """The signs right before `end` that were not handed on and may belong to the text after it."""
        before = self._buffer[max(self._done, end - MAX_LEADING) : end]
        return before[len(before.rstrip(LEADING)) :]
