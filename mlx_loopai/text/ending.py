"""Finds where a text of a requested length should end: at the end of a sentence."""

from __future__ import annotations

import re

# Multiple of the length at which a text is cut even if no sentence has ended.
_MOST = 1.3
_END = re.compile(r"[.!?…。][\"'”’』」)]*(?=\s)|\n")


def end_near(text: str, chars: int) -> int | None:
    """The place after the first whole sentence that reaches `chars` characters, line breaks not counted.

    None where the text is not that long yet, or where its sentence may go on.
    """
    counted = [place for place, one in enumerate(text) if one != "\n"]
    if len(counted) < chars:
        return None
    found = _END.search(text, counted[chars - 1])
    if found:
        return found.start() + len(found[0].rstrip())
    return len(text) if len(counted) >= _MOST * chars else None
