"""A file of feedback: judged answers, one a line, to which several programs may append."""

from __future__ import annotations

import fcntl
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mlx_loopai.data.formats import read_rows
from mlx_loopai.data.pairs import Judged
from mlx_loopai.errors import InputError
from mlx_loopai.language import tr

_JUDGED_FIELDS = (
    "prompt", "chosen", "rejected", "completion", "label", "tools", "prefix_tokens", "candidates",
)  # fmt: skip


def append_feedback(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Append `rows` to `path`, all or none of them, even while others write; returns how many were new.

    A row whose judged answers are in the file already is left out. If another program left the last line unfinished, it
    is ended first, so that it spoils no other line.

    Raises: InputError when the file cannot be written.
    """
    try:
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    except OSError as error:
        raise InputError(
            tr("{path}: cannot be written: {strerror}; give another file", path=path, strerror=error.strerror)
        ) from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        size = os.fstat(handle).st_size
        known = {_identity(row.values) for row in read_rows(path)[0]} if size else set()
        new = {identity: row for row in rows if (identity := _identity(row)) not in known}
        text = to_lines(new.values())
        if text and size and os.pread(handle, 1, size - 1) != b"\n":
            text = "\n" + text
        _write(handle, text.encode("utf-8", "replace"), size)
        return len(new)
    finally:
        os.close(handle)


def feedback_rows(judged: Iterable[Judged], **origin: Any) -> list[dict[str, Any]]:
    """`judged` as rows, answers in TRL's conversational form.

    origin: where they come from, such as `source`, `model` and `seed`.
    """
    known = {name: value for name, value in origin.items() if value is not None}
    return [one.as_row() | known for one in judged]


def to_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """The rows as JSONL."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def feedback_sources(path: Path) -> dict[str, int]:
    """Rows of a file by source: pick, edit, vote, draft, rank, korean, spliced, positions, import.

    "" where a row names none.
    """
    rows = [row.values for row in read_rows(path)[0] if isinstance(row.values, Mapping)]
    return dict(Counter(str(row.get("source", "")) for row in rows).most_common())


def _identity(row: Any) -> str:
    judged = {name: row.get(name) for name in _JUDGED_FIELDS} if isinstance(row, Mapping) else row
    return json.dumps(judged, ensure_ascii=False, sort_keys=True)


def _write(handle: int, data: bytes, size: int) -> None:
    """Append all of `data` to the file, or nothing when there is no room for it."""
    try:
        while data:
            data = data[os.write(handle, data) :]
        os.fsync(handle)
    except OSError:
        os.ftruncate(handle, size)
        raise
