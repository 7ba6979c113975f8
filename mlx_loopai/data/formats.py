"""Files of rows: JSONL, JSON, CSV and Parquet become (line, values) pairs.

Knows nothing about conversations. Every problem of a file is collected with its line, so that a person mends
the file in one go.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_loopai.errors import InputError

_WHITESPACE = " \t\r\n"


@dataclass(frozen=True)
class RawRow:
    """One row as the file has it: `values` is what JSON gave, or column -> cell of a table."""

    line: int  # 1-based; the row number in a Parquet file
    values: Any


@dataclass(frozen=True)
class Problem:
    """What is wrong with one line."""

    line: int
    reason: str


def read_rows(path: Path) -> tuple[list[RawRow], list[Problem]]:
    """The rows of a file in its order, and the lines that could not be read.

    Raises: InputError when the file as a whole cannot be read: missing, a folder, not UTF-8, an unknown ending,
    Parquet without pyarrow.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: cannot read {path.suffix or 'a file without an ending'}; give {', '.join(_READERS)}")
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give a file of rows in it")
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    rows: list[RawRow] = []
    problems: list[Problem] = []
    for item in reader(path, content):
        if isinstance(item, Problem):
            problems.append(item)
        else:
            rows.append(item)
    return rows, problems


def _read_jsonl(path: Path, content: bytes) -> Iterator[RawRow | Problem]:
    # Only "\n" ends a line: U+2028 and its like may stand unescaped inside a JSON string.
    for number, line in enumerate(_decode(path, content).split("\n"), start=1):
        if line.strip():
            yield _parse_line(number, line)


def _parse_line(number: int, line: str) -> RawRow | Problem:
    try:
        return RawRow(number, json.loads(line))
    except json.JSONDecodeError as error:
        return Problem(number, f"broken JSON at column {error.colno}: {error.msg}")
    except (ValueError, RecursionError) as error:
        return Problem(number, f"JSON that cannot be read: {error}")


def _read_json(path: Path, content: bytes) -> Iterator[RawRow | Problem]:
    text = _decode(path, content)
    start = _skip(text, 0)
    if start == len(text):
        return
    if text[start] != "[":
        raise InputError(f"{path}: a .json file holds a list of objects; with one object a line, call it .jsonl")
    yield from _list_items(text, start + 1)


def _list_items(text: str, position: int) -> Iterator[RawRow | Problem]:
    """The items of a JSON list one by one, because `json.loads` on the whole list would lose their lines."""
    decoder = json.JSONDecoder()
    line, counted = 1, 0
    position = _skip(text, position)
    expect_item = True
    while position < len(text):
        line, counted = line + text.count("\n", counted, position), position
        if text[position] == "]":
            rest = _skip(text, position + 1)
            if rest < len(text):
                yield Problem(line + text.count("\n", position, rest), "text after the end of the list")
            return
        if not expect_item:
            if text[position] != ",":
                yield Problem(line, "broken JSON: expected ',' or ']' after an item of the list")
                return
            position, expect_item = _skip(text, position + 1), True
            continue
        try:
            values, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            yield Problem(error.lineno, f"broken JSON at column {error.colno}: {error.msg}")
            return
        except (ValueError, RecursionError) as error:
            yield Problem(line, f"JSON that cannot be read: {error}")
            return
        yield RawRow(line, values)
        position, expect_item = _skip(text, position), False
    yield Problem(line, "broken JSON: the list is not closed with ']'")


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] in _WHITESPACE:
        position += 1
    return position


def _read_csv(path: Path, content: bytes) -> Iterator[RawRow | Problem]:
    text = _decode(path, content)
    # The default limit of 131,072 characters a cell refuses long stories; it is global, so it is put back.
    limit = csv.field_size_limit(sys.maxsize)
    try:
        yield from _csv_rows(csv.reader(io.StringIO(text, newline=""), strict=True))
    finally:
        csv.field_size_limit(limit)


def _csv_rows(reader: Any) -> Iterator[RawRow | Problem]:
    header: list[str] | None = None
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Problem(line, f"broken CSV: {error}; double the quotes inside a quoted cell")
            continue
        if not cells:
            continue
        if header is None:
            header = [name.strip() for name in cells]
        elif len(cells) != len(header):
            yield Problem(line, f"{len(cells)} cells under {len(header)} columns; quote cells that hold commas")
        else:
            yield RawRow(line, dict(zip(header, cells, strict=True)))


def _read_parquet(path: Path, content: bytes) -> Iterator[RawRow | Problem]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise InputError(f"{path}: reading Parquet needs pyarrow; pip install 'mlx-loopai[parquet]'") from None
    try:
        table = parquet.read_table(pyarrow.BufferReader(content))
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a Parquet file that can be read: {' '.join(str(error).split())}") from None
    for number, values in enumerate(table.to_pylist(), start=1):
        yield RawRow(number, values)


def _decode(path: Path, content: bytes) -> str:
    """UTF-8 text, with or without a byte order mark."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        hint = "it reads as CP949: convert it to UTF-8" if _is_cp949(content) else "save it as UTF-8"
        raise InputError(f"{path}:{line}: not UTF-8 (byte 0x{content[error.start]:02x}); {hint}") from None


def _is_cp949(content: bytes) -> bool:
    try:
        content.decode("cp949")
    except UnicodeDecodeError:
        return False
    return True


_READERS: dict[str, Callable[[Path, bytes], Iterator[RawRow | Problem]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
ROW_SUFFIXES = tuple(_READERS)
