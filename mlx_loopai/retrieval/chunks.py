"""Cuts texts and rows into passages, the units of retrieval."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mlx_loopai.data.duplicates import normalised
from mlx_loopai.data.records import Record, read_records
from mlx_loopai.data.sentences import sentence_units
from mlx_loopai.data.texts import read_text
from mlx_loopai.errors import InputError
from mlx_loopai.language import tr

TEXT_ENDINGS = (".txt", ".text", ".md")
ROW_ENDINGS = (".jsonl", ".json", ".csv", ".parquet")
DEFAULT_CHARS = 400


@dataclass(frozen=True)
class Chunk:
    """A passage. file, line (1-based): where it begins. id: equal for passages with the same words."""

    id: str
    file: str
    line: int
    text: str


def read_chunks(path: Path, max_chars: int = DEFAULT_CHARS) -> list[Chunk]:
    """The passages of a text file, or of the rows of a file of records, in the file's order.

    Every row is cut by itself, and its passages have its line number. Text without a letter or digit is left out.
    Raises: InputError when the file cannot be read; broken rows are all named.
    """
    if path.suffix.lower() in ROW_ENDINGS:
        rows = ((_record_text(record), int(record.origin.rpartition(":")[2])) for record in read_records(path))
        return [_chunk(path, line, text) for body, line in rows for _, text in split_text(body, max_chars)]
    body = _read_text(path)
    return [_chunk(path, 1 + body.count("\n", 0, start), text) for start, text in split_text(body, max_chars)]


def split_text(text: str, max_chars: int = DEFAULT_CHARS) -> Iterator[tuple[int, str]]:
    """(offset, passage) of every passage of `text`, at most `max_chars` characters each.

    Each holds as many whole sentences as fit. A blank line ends a passage that is at least half full. A sentence that
    is too long by itself is cut at the last space that fits, or inside a word where there is none.
    """
    start = end = 0
    for unit in _pieces(text, max_chars):
        full = end - start + len(unit.rstrip()) > max_chars
        ends_paragraph = text[start:end].endswith("\n\n") and 2 * (end - start) >= max_chars
        if full or ends_paragraph:
            yield from _stripped(text, start, end)
            start = end
        end += len(unit)
    yield from _stripped(text, start, end)


def _pieces(text: str, max_chars: int) -> Iterator[str]:
    for unit in sentence_units(text):
        while len(unit.rstrip()) > max_chars:
            cut = unit.rfind(" ", max_chars // 2, max_chars) + 1 or max_chars
            yield unit[:cut]
            unit = unit[cut:]
        yield unit


def _stripped(text: str, start: int, end: int) -> Iterator[tuple[int, str]]:
    body = text[start:end].strip()
    if any(char.isalnum() for char in body):
        yield text.index(body, start), body


def _chunk(path: Path, line: int, text: str) -> Chunk:
    return Chunk(hashlib.sha256(normalised(text).encode()).hexdigest()[:16], str(path), line, text)


def _record_text(record: Record) -> str:
    """Requests and answers, without the system prompt, which says how to write and not what."""
    return "\n\n".join(message.content for message in record.messages if message.role != "system")


def _read_text(path: Path) -> str:
    if path.suffix.lower() not in TEXT_ENDINGS:
        known = ", ".join((*TEXT_ENDINGS, *ROW_ENDINGS))
        raise InputError(
            tr(
                "{path}: cannot read {suffix}; give {known}",
                path=path,
                suffix=path.suffix or "a file without an ending",
                known=known,
            )
        )
    return read_text(path, "check the path", "give the files in it")
