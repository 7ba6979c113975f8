"""Where a run's records come from: a file, or one of the embedded samples."""

from __future__ import annotations

from pathlib import Path

from mlx_loopai.config import RunConfig
from mlx_loopai.data.records import Record, read_records
from mlx_loopai.data.samples import corpus

SAMPLES_PREFIX = "samples/"


def read_source(path: str, category: str) -> list[Record]:
    """Records of a file, or of the embedded `samples/NAME`."""
    if path.startswith(SAMPLES_PREFIX):
        return corpus.sample(path.removeprefix(SAMPLES_PREFIX))
    return read_records(Path(path), category)


def general_records(config: RunConfig) -> list[Record]:
    """The general rows of a run; empty when only the embedded prompt set serves."""
    return read_source(config.general, "knowledge") if config.general else []
