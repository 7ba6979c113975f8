"""Where a run's records come from: a file of rows, stories, or one of the embedded samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mlx_loopai.config import RunConfig
from mlx_loopai.data.formats import ROW_SUFFIXES
from mlx_loopai.data.records import Record, read_records
from mlx_loopai.data.samples import corpus
from mlx_loopai.data.stories import reading
from mlx_loopai.data.stories.rows import StoryOptions, story_rows

SAMPLES_PREFIX = "samples/"
DOMAIN, GENERAL_CATEGORY = "domain", "knowledge"


def read_source(path: str, category: str) -> list[Record]:
    """Records of a file of rows, of a story or a folder of stories, or of the embedded `samples/NAME`.

    Raises: InputError with every problem of a file, or for a path that holds neither rows nor stories.
    """
    if path.startswith(SAMPLES_PREFIX):
        return corpus.sample(path.removeprefix(SAMPLES_PREFIX))
    if holds_stories(Path(path)):
        found = story_rows(reading.story_files([Path(path)]), StoryOptions())
        return [replace(record, category=category) for record in found.records]
    return read_records(Path(path), category)


def holds_stories(path: Path) -> bool:
    """Whether `path` is a story file, or a folder with story files and no file of rows."""
    if path.is_dir():
        found = {file.suffix.lower() for file in path.rglob("*") if file.is_file()}
        return bool(found & set(reading.SUFFIXES)) and not found & set(ROW_SUFFIXES)
    return path.suffix.lower() in reading.SUFFIXES


def general_records(config: RunConfig) -> list[Record]:
    """The general rows of a run; empty when only the embedded prompt set serves."""
    return read_source(config.general, GENERAL_CATEGORY) if config.general else []
