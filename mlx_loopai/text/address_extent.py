"""How much of a text goes with an address: its quotation marks, particle and label, and addresses joined to it."""

from __future__ import annotations

from mlx_loopai.text.addresses import (
    ENDS_LABELLED,
    HANGING,
    HELD,
    LABEL,
    LABEL_STARTS,
    MAX_LABEL_CHARS,
    NAMED,
    PARTICLE,
    URL,
)
from mlx_loopai.text.binding import attached
from mlx_loopai.text.run_patterns import BRACKETS, QUOTES


def extent(buffer: str, address: tuple[int, int], reach: int, done: int, left: str) -> tuple[int, int]:
    """From where to where `buffer` goes with an `address` in it.

    reach: addresses that are joined to it begin before. done: what stands before was handed on. left: the text before
    the address, handed on or not.
    """
    start, end = address
    while start > done and QUOTES.get(buffer[start - 1]) == buffer[end : end + 1] != "":
        start, end = start - 1, end + 1
    particle = PARTICLE.match(buffer, end)
    if particle and address[0] == start > done and NAMED.search(left):
        return start - 1, particle.start("form")
    end = HANGING.match(buffer, end).end()
    while (joined := URL.match(buffer, end, reach)) and not HELD.match(buffer, joined.end()):
        end = HANGING.match(buffer, joined.end()).end()
    if ENDS_LABELLED.match(buffer, end):
        start = label_before(buffer, start, done)
    encloses = start > done and BRACKETS.get(buffer[start - 1]) == buffer[end : end + 1]
    if encloses and attached(buffer, end + 1):
        # The particle belongs to the word before the brackets, and the space between them goes: 집 (…)에서.
        return start - 1 - (start - 1 > done and buffer[start - 2] == " "), end + 1
    return start, end


def label_before(buffer: str, end: int, done: int, whole: bool = True) -> int:
    """Where the label ("출처: ") that ends at `end` begins, or if not `whole` what may become one; else `end`."""
    least = max(done, end - MAX_LABEL_CHARS)
    start = max(buffer.rfind(one, max(least - 1, 0), end) for one in LABEL_STARTS) + 1
    return start if start >= least and LABEL.fullmatch(buffer, start, end, partial=not whole) else end
