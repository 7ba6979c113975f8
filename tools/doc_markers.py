"""Replaces a generated table in a hand-written document: only the text between two markers changes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from mlx_loopai.errors import InputError


def with_marked(document: str, name: str, between: str, where: object) -> str:
    """`document` with the lines `between` in place of those between the two markers of `name`.

    `where` is the document's place, for messages. Raises: InputError where a marker is missing.
    """
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    before, found, rest = document.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise InputError(f"{where}: no markers for the {name}; keep the lines {begin.strip()} and {end}")
    return f"{before}{begin}{between}\n{end}{after}"


def in_language_of(document: Path, table: str, korean: Mapping[str, str]) -> str:
    """`table` for `document`: where that is in Korean (`.ko.md`), with the words that `korean` translates."""
    if not document.name.endswith(".ko.md"):
        return table
    for word in sorted(korean, key=len, reverse=True):  # a longer one may contain a shorter one
        table = table.replace(word, korean[word])
    return re.sub(r"(?<=\d) to (?=-?\d)", "~", table)
