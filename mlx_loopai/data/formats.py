"""Files of rows: JSONL, JSON, CSV and Parquet become (line, values) pairs.

What the rows mean is not decided here. Every problem of a file is collected with its line, so that a person can mend
them all at once.
"""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_loopai.errors import InputError, install_command
from mlx_loopai.files import mostly_brackets, refuse_link_out
from mlx_loopai.language import tr
from mlx_loopai.progress import Advance, ignore

_SPLITS = {
    "train": "train", "training": "train",
    "valid": "validation", "validation": "validation", "val": "validation", "dev": "validation",
    "test": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
_WHITESPACE = " \t\r\n"
# Files that describe a data set and hold none of its rows.
_DESCRIPTIONS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
# Far above any row that a model reads; they keep a hostile file from taking the machine's memory.
_MAX_ROW_BYTES = 16 << 20
# Progress is reported once in this many rows.
_ROWS_A_WORD = 256
_PARQUET_ROWS, _MIN_CHARACTERS, _MAX_EXPANSION = 64, 64 << 20, 100


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
    """The rows of a file in its order, and the lines that could not be read. Raises: as `stream_rows`."""
    items = list(stream_rows(path))
    return [item for item in items if isinstance(item, RawRow)], [item for item in items if isinstance(item, Problem)]


def stream_rows(path: Path, on_read: Advance = ignore) -> Iterator[RawRow | Problem]:
    """The rows of a file and the lines that could not be read, in order. `on_read` is called with the bytes read.

    JSONL and Parquet are read a part at a time, the other kinds as a whole.

    Raises: InputError when the file as a whole cannot be read: missing, a folder, not UTF-8, an unknown ending,
    Parquet without pyarrow.
    """
    if path.is_dir():
        raise InputError(tr("{path}: is a folder; give a file of rows in it", path=path))
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(
            tr(
                "{path}: cannot read {suffix}; give {endings}",
                path=path,
                suffix=path.suffix or tr("a file without an ending"),
                endings=", ".join(_READERS),
            )
        )
    on_read(0)
    try:
        yield from reader(path, on_read)
        on_read(path.stat().st_size)
    except FileNotFoundError:
        raise InputError(tr("{path}: no such file; check the path", path=path)) from None
    except OSError as error:
        raise InputError(tr("{path}: cannot be read: {strerror}", path=path, strerror=error.strerror)) from None


def row_files(path: Path, split: str = "train") -> tuple[list[Path], tuple[Path, ...]]:
    """(the files of rows that belong to `split`, other files of rows): of a file itself, or of a folder.

    In a folder these are the files named for the split, as data sets on the hub name them. For training, where no file
    is named so, they are all files except those named for validation and tests.

    Raises: InputError for a folder without such files, or a link out of it.
    """
    if not path.is_dir():
        return [path], ()
    found = [
        file
        for file in sorted(path.rglob("*"))
        if file.suffix.lower() in _READERS
        and file.name not in _DESCRIPTIONS
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
        and file.is_file()
    ]
    if not found:
        hint = tr("; write .arrow files as Parquet first") if any(path.rglob("*.arrow")) else ""
        raise InputError(
            tr("{path}: holds no rows ({endings}){hint}", path=path, endings=", ".join(_READERS), hint=hint)
        )
    for file in found:
        refuse_link_out(file, path)
    splits = {file: split_of(file.relative_to(path)) for file in found}
    kept = [file for file in found if splits[file] == split]
    if not kept and split == "train":
        kept = [file for file in found if splits[file] is None] or found
    if not kept:
        raise InputError(
            tr(
                "{path}: has no split {split!r}; it has {splits}",
                path=path,
                split=split,
                splits=", ".join(sorted({str(s) for s in splits.values()})),
            )
        )
    return kept, tuple(file for file in found if file not in kept)


def split_of(name: Path) -> str | None:
    """Which part of a data set a file is for, as its name says: train, validation, test, or None."""
    words = [word for part in name.with_suffix("").parts for word in re.split(r"[-_.]", part.lower())]
    return next((_SPLITS[word] for word in words if word in _SPLITS), None)


def _read_jsonl(path: Path, on_read: Advance = ignore) -> Iterator[RawRow | Problem]:
    """One line at a time. Only "\\n" ends a line: U+2028 and its like may stand unescaped inside a JSON string."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(_MAX_ROW_BYTES + 1):
            number += 1
            if number % _ROWS_A_WORD == 0:
                on_read(file.tell())
            if len(line) > _MAX_ROW_BYTES and not line.endswith(b"\n"):
                while (rest := file.readline(_MAX_ROW_BYTES)) and not rest.endswith(b"\n"):
                    pass
                yield Problem(
                    number,
                    tr("a row of more than {limit} MiB; no single text is that long", limit=_MAX_ROW_BYTES >> 20),
                )
                continue
            text = _decode(path, line, first_line=number)
            if text.strip():
                yield _parse_line(number, text)


def _parse_line(number: int, line: str) -> RawRow | Problem:
    if mostly_brackets(line):
        return Problem(number, tr("JSON that is hardly more than brackets"))
    try:
        return RawRow(number, json.loads(line))
    except json.JSONDecodeError as error:
        return Problem(number, tr("broken JSON at column {colno}: {msg}", colno=error.colno, msg=error.msg))
    except (ValueError, RecursionError) as error:
        return Problem(number, tr("JSON that cannot be read: {error}", error=error))


def _read_json(path: Path, on_read: Advance = ignore) -> Iterator[RawRow | Problem]:
    text = _decode(path, path.read_bytes())
    start = _skip(text, 0)
    if start == len(text):
        return
    if text[start] != "[":
        raise InputError(
            tr("{path}: a .json file holds a list of objects; with one object a line, call it .jsonl", path=path)
        )
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
                yield Problem(line + text.count("\n", position, rest), tr("text after the end of the list"))
            return
        if not expect_item:
            if text[position] != ",":
                yield Problem(line, tr("broken JSON: expected ',' or ']' after an item of the list"))
                return
            position, expect_item = _skip(text, position + 1), True
            continue
        try:
            values, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            yield Problem(error.lineno, tr("broken JSON at column {colno}: {msg}", colno=error.colno, msg=error.msg))
            return
        except (ValueError, RecursionError) as error:
            yield Problem(line, tr("JSON that cannot be read: {error}", error=error))
            return
        yield RawRow(line, values)
        position, expect_item = _skip(text, position), False
    yield Problem(line, tr("broken JSON: the list is not closed with ']'"))


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] in _WHITESPACE:
        position += 1
    return position


def _read_csv(path: Path, on_read: Advance = ignore) -> Iterator[RawRow | Problem]:
    text = _decode(path, path.read_bytes())
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
            yield Problem(line, tr("broken CSV: {error}; double the quotes inside a quoted cell", error=error))
            continue
        if not cells:
            continue
        if header is None:
            header = [name.strip() for name in cells]
        elif len(cells) != len(header):
            yield Problem(
                line,
                tr(
                    "{n_cells} cells under {n_header} columns; quote cells that hold commas",
                    n_cells=len(cells),
                    n_header=len(header),
                ),
            )
        else:
            yield RawRow(line, dict(zip(header, cells, strict=True)))


def _read_parquet(path: Path, on_read: Advance = ignore) -> Iterator[RawRow | Problem]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise InputError(
            tr("{path}: reading Parquet needs pyarrow; {install}", path=path, install=install_command("parquet"))
        ) from None
    size = path.stat().st_size
    budget = _MIN_CHARACTERS + _MAX_EXPANSION * size
    number = 0
    try:
        file = parquet.ParquetFile(path)
        # A column of one repeated value takes a few bytes, however many rows it has.
        if file.metadata.num_rows > _MIN_CHARACTERS // 1024 + size:
            raise InputError(
                tr(
                    "{path}: claims {num_rows} rows in {size} bytes; it is damaged or hostile",
                    path=path,
                    num_rows=file.metadata.num_rows,
                    size=size,
                )
            )
        for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
            for values in batch.to_pylist():
                number += 1
                budget -= _characters(values)
                if budget < 0:
                    raise InputError(
                        tr(
                            "{path}: its texts are more than {max_expansion} times its size; it is hostile",
                            path=path,
                            max_expansion=_MAX_EXPANSION,
                        )
                    )
                yield RawRow(number, values)
    except pyarrow.ArrowException as error:
        raise InputError(
            tr("{path}: not a Parquet file that can be read: {error}", path=path, error=" ".join(str(error).split()))
        ) from None


def _characters(value: Any) -> int:
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_characters, value.values()))
    return sum(map(_characters, value)) if isinstance(value, list) else 1


def _decode(path: Path, content: bytes, first_line: int = 1) -> str:
    """UTF-8 text, with or without a byte order mark."""
    try:
        return content.decode("utf-8-sig" if first_line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + first_line
        hint = tr("it reads as CP949: convert it to UTF-8") if _is_cp949(content) else tr("save it as UTF-8")
        raise InputError(
            tr(
                "{path}:{line}: not UTF-8 (byte 0x{byte:02x}); {hint}",
                path=path,
                line=line,
                byte=content[error.start],
                hint=hint,
            )
        ) from None


def _is_cp949(content: bytes) -> bool:
    try:
        content.decode("cp949")
    except UnicodeDecodeError:
        return False
    return True


_READERS: dict[str, Callable[[Path, Advance], Iterator[RawRow | Problem]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
ROW_SUFFIXES = tuple(_READERS)
