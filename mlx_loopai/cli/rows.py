"""The flags for reading files of rows, shared by the commands that read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from mlx_loopai.errors import InputError
from mlx_loopai.language import tr

if TYPE_CHECKING:
    from mlx_loopai.config import SourceKind, SourceOptions
    from mlx_loopai.data.records import Reading

columns_option = click.option(
    "--columns", metavar="NAME=FIELD,...", help="Read the field FIELD as NAME, such as prompt=질문,completion=답변."
)
skip_bad_option = click.option("--skip-bad", is_flag=True, help="Leave out rows that cannot be learnt, and list them.")


def column_map(text: str | None) -> dict[str, str]:
    """`prompt=질문,completion=답변` as a table. Raises: InputError."""
    found: dict[str, str] = {}
    for part in text.split(",") if text else ():
        name, equals, theirs = (piece.strip() for piece in part.partition("="))
        if not equals or not name or not theirs:
            raise InputError(tr("--columns {part}: expected NAME=FIELD, such as prompt=질문", part=part))
        found[name.lower()] = theirs
    return found


def source_options(path: str, columns: str | None, skip_bad: bool = False, kind: SourceKind = "auto") -> SourceOptions:
    """How one source is read."""
    from mlx_loopai.config import SourceOptions

    return SourceOptions(path=path, columns=column_map(columns), skip_bad=skip_bad, kind=kind)


def read_sources(paths: Sequence[str], columns: str | None, kind: SourceKind = "auto") -> list[Reading]:
    """What is in each of `paths`: files or folders of rows, stories, or data sets on the hub. Raises: InputError.

    kind: `rows` where only ordinary rows are wanted; chosen and good answers then count as such.
    """
    from mlx_loopai.data.sources import reading_of

    return [reading_of(path, "domain", source_options(path, columns, kind=kind)) for path in paths]


def fields_not_used(readings: Sequence[Reading]) -> list[str]:
    """The names of fields that nothing read, of all readings."""
    return sorted({name for reading in readings for name in reading.unused})
