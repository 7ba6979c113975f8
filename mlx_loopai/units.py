"""Formats and parses sizes and durations as people write them: `1.5 KiB`, `1m15s`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mlx_loopai.errors import InputError
from mlx_loopai.language import tr

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30


def format_bytes(n_bytes: float) -> str:
    """`1536` -> `'1.5 KiB'`. Binary prefixes, since memory is sold and addressed in them."""
    size = float(n_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024 or unit == "GiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("unreachable")


def format_duration(seconds: float) -> str:
    """`75` -> `'1m15s'`; below a minute one decimal is kept."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"


@dataclass(frozen=True)
class Span:
    """Seconds, at least and at most."""

    low_s: float
    high_s: float

    def __add__(self, other: Span) -> Span:
        return Span(self.low_s + other.low_s, self.high_s + other.high_s)

    def times(self, factor: float) -> Span:
        """The span that is `factor` times as long."""
        return Span(factor * self.low_s, factor * self.high_s)

    @property
    def text(self) -> str:
        """`2m10s to 5m00s`, or `2m10s` where both ends read the same."""
        low, high = format_duration(self.low_s), format_duration(self.high_s)
        return low if low == high else tr("{low_s} to {high_s}", low_s=low, high_s=high)


_UNIT_BYTES = {"": 1, "b": 1} | {
    name: base**power
    for power, prefix in enumerate("kmgt", start=1)
    for base, names in ((1024, (prefix, f"{prefix}ib")), (1000, (f"{prefix}b",)))
    for name in names
}


def parse_bytes(text: str, where: str = "size") -> int:
    """`'9GiB'` -> 9 * 2^30, `'9GB'` -> 9 * 10^9, `'512m'` -> 512 * 2^20, `'1024'` -> 1024. `where` names it in errors.

    Raises: InputError for anything else, zero and negative sizes included.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    unit = _UNIT_BYTES.get(found[2].lower()) if found else None
    if found is None or unit is None or not float(found[1]) * unit >= 1:
        raise InputError(
            tr("{where}: cannot read {text!r} as a size; write it like 9GiB, 9GB or 800MiB", where=where, text=text)
        )
    return int(float(found[1]) * unit)
