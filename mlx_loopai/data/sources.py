"""Reads the records of a run's source: a file of rows, a data set on the hub, stories, or an embedded sample."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from mlx_loopai.config import SourceOptions
from mlx_loopai.data.formats import ROW_SUFFIXES
from mlx_loopai.data.hub_rows import HUB_PREFIX, fetch_rows
from mlx_loopai.data.pairs import Judged, Pair
from mlx_loopai.data.records import BadRow, Read, Reading, Record, Scan, read_all
from mlx_loopai.data.samples import corpus
from mlx_loopai.data.stories import reading
from mlx_loopai.data.stories.rows import StoryOptions, story_rows
from mlx_loopai.data.unanswered import Unanswered
from mlx_loopai.progress import Advance, ignore

SAMPLES_PREFIX = "samples/"
DOMAIN, GENERAL_CATEGORY = "domain", "knowledge"


def read_source(path: str, category: str, how: SourceOptions | None = None) -> list[Record]:
    """The records of a source; see `reading_of`. Raises: InputError with every bad row that `how` does not skip."""
    return reading_of(path, category, how).required(skip=how is not None and how.skip_bad)


def reading_of(path: str, category: str, how: SourceOptions | None = None, on_read: Advance = ignore) -> Reading:
    """What is in a file or folder of rows, a data set on the hub, a story or a folder of stories, or `samples/NAME`.

    how: the column mapping, the kind of rows, and whether names of control tokens mean those tokens. on_read: called
    with the bytes of rows read so far.

    Raises: InputError for a path that holds neither rows nor stories, or a file that cannot be read.
    """
    if path.startswith(SAMPLES_PREFIX):
        return Reading(Path(path), corpus.sample(path.removeprefix(SAMPLES_PREFIX)), [], {})
    columns, kind = (how.columns, how.kind) if how else ({}, "auto")
    if path.startswith(HUB_PREFIX):
        folder, split = fetch_rows(path)
        found = read_all(folder, category, columns, split, kind, on_read)
    elif holds_stories(Path(path)):
        stories = story_rows(reading.story_files([Path(path)]), StoryOptions()).records
        found = Reading(Path(path), [replace(record, category=category) for record in stories], [], {})
    else:
        found = read_all(Path(path), category, columns, kind=kind, on_read=on_read)
    if how and how.allow_special:
        judged = tuple(allowing_judged(one) for one in found.judged)
        found = replace(found, records=[allowing(record) for record in found.records], judged=judged)
    return found


def scan_of(path: str, category: str, how: SourceOptions | None = None) -> Scan | None:
    """The files of rows of a source, to be read a row at a time; None for stories and samples, which are small.

    Raises: InputError for a folder without rows.
    """
    columns, kind = (how.columns, how.kind) if how else ({}, "auto")
    if path.startswith(HUB_PREFIX):
        folder, split = fetch_rows(path)
        return Scan.of(folder, category, columns, split, kind)
    if path.startswith(SAMPLES_PREFIX) or holds_stories(Path(path)):
        return None
    return Scan.of(Path(path), category, columns, kind=kind)


def rows_of(
    path: str, category: str, how: SourceOptions | None = None, scan: Scan | None = None, on_read: Advance = ignore
) -> Iterator[Read]:
    """The rows that `reading_of` gives, one at a time, without holding large files in memory.

    scan: that of the source, where it is known. Raises: InputError as `reading_of`.
    """
    scan = scan or scan_of(path, category, how)
    if scan is None:
        reading = reading_of(path, category, how)
        yield from (*reading.records, *reading.judged)
        return
    for read in scan.rows(on_read):
        if how is None or not how.allow_special or isinstance(read, BadRow):
            yield read
        else:
            yield allowing(read) if isinstance(read, Record) else allowing_judged(read)


def conversations_of(path: str, category: str, how: SourceOptions | None = None) -> Iterator[Record]:
    """The records of a source, its chosen and good answers, and its prompts without an answer.

    Raises: InputError as `reading_of`.
    """
    for read in rows_of(path, category, how):
        if isinstance(read, Record):
            yield read
        elif isinstance(read, Unanswered):
            yield read.prompt
        elif not isinstance(read, BadRow) and read.better is not None:
            yield read.better


def allowing(record: Record) -> Record:
    """The record, in which names of control tokens mean those tokens."""
    return replace(record, allow_special=True)


def allowing_judged(one: Judged) -> Judged:
    """Judged answers, in which names of control tokens mean those tokens."""
    if isinstance(one, Pair):
        return Pair(allowing(one.chosen), allowing(one.rejected))
    if isinstance(one, Unanswered):
        return replace(one, prompt=allowing(one.prompt))
    return replace(one, answer=allowing(one.answer))


def holds_stories(path: Path) -> bool:
    """Whether `path` is a story file, or a folder with story files and no file of rows."""
    if path.is_dir():
        found = {file.suffix.lower() for file in path.rglob("*") if file.is_file()}
        return bool(found & set(reading.SUFFIXES)) and not found & set(ROW_SUFFIXES)
    return path.suffix.lower() in reading.SUFFIXES
