"""Reads a checkpoint's JSON files, which may be damaged or hostile, and writes JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mlx_loopai.errors import InputError
from mlx_loopai.files import mostly_brackets
from mlx_loopai.language import tr

MAX_JSON_BYTES = 256 << 20


def _reject_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} occurs twice")
        found[key] = value
    return found


def parse_object(text: bytes, where: str) -> dict[str, Any]:
    """The JSON object in `text`.

    Raises:
        InputError: not UTF-8, not JSON, not an object, a key that occurs twice, or nested too deep.
    """
    if mostly_brackets(text):
        raise InputError(
            tr("{where}: is hardly more than brackets, which no file of a model is; do not trust it", where=where)
        )
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_reject_duplicates)
    except (ValueError, RecursionError) as error:
        raise InputError(
            tr("{where}: not valid JSON ({error}); get a fresh copy of it", where=where, error=error)
        ) from None
    if not isinstance(value, dict):
        raise InputError(
            tr("{where}: holds a JSON {name} where an object is needed", where=where, name=type(value).__name__)
        )
    return value


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in the file `path`.

    Raises:
        InputError: the file is missing, unreadable, too large or not a JSON object.
    """
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise InputError(tr("{path}: {size} bytes are too many for a JSON file of a model", path=path, size=size))
        text = path.read_bytes()
    except OSError as error:
        raise InputError(tr("{path}: cannot be read ({strerror})", path=path, strerror=error.strerror)) from None
    return parse_object(text, str(path))


def write_object(path: Path, value: dict[str, Any]) -> None:
    """Write `value` as readable JSON with a newline at the end."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
