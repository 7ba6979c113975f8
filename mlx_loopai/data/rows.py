"""Reads and encodes the data files of runs, each once, and tells the rows of one run from those of another."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from mlx_loopai.config import RunConfig, SourceOptions
from mlx_loopai.data.records import Reading, Record
from mlx_loopai.data.sources import reading_of
from mlx_loopai.data.tokens import ChatEncoder, SplitNotice, TokenRow, encode_records
from mlx_loopai.errors import InputError

FIXED_ROWS = 32
MOST_HELD_OUT = 64
_Found = TypeVar("_Found")


@dataclass(frozen=True)
class Rows:
    """Encoded rows by source name, and the held-out ones. `notices`: what a person should know about them."""

    sources: dict[str, list[TokenRow]]
    validation: list[TokenRow]
    notices: tuple[str, ...] = ()

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(len(row.ids) for rows in (*self.sources.values(), self.validation) for row in rows)

    @property
    def lengths(self) -> list[int]:
        """Tokens of every training row, in the order of the files."""
        return [len(row.ids) for rows in self.sources.values() for row in rows]

    @cached_property
    def fixed(self) -> list[TokenRow]:
        """The rows on which a run's loss is reported before and after, whatever the order of training."""
        found = [row for name in sorted(self.sources) for row in self.sources[name]]
        return sorted(found, key=row_digest)[:FIXED_ROWS]

    @cached_property
    def digest(self) -> str:
        """Identity of everything read: a run resumed on edited files would go on in the middle of other data."""
        found = hashlib.sha256()
        for name, rows in [*sorted(self.sources.items()), ("", self.validation)]:
            found.update(f"{name}:{len(rows)}".encode())
            _add(found, rows)
        return found.hexdigest()


class RowReader:
    """Reads data files and encodes them with one tokenizer, each file once, however many runs ask for it.

    Rows that several runs share are one list: they are read only.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._kept: dict[tuple[Any, ...], Any] = {}

    def encoder(self, system_prompt: str) -> ChatEncoder:
        """The encoder of rows and prompts with `system_prompt`."""
        return self._once(("encoder", system_prompt), lambda: ChatEncoder(self._tokenizer, system_prompt))

    def reading(self, path: str, category: str, how: SourceOptions | None = None) -> Reading:
        """What is in a file, read once. Raises: InputError as `reading_of`."""
        return self._once(("reading", path, category, _key(how)), lambda: reading_of(path, category, how))

    def records(self, path: str, category: str, how: SourceOptions | None = None) -> list[Record]:
        """The records of a file or of samples/NAME; none without a path. Raises: InputError as `read_source`."""
        return self.reading(path, category, how).required(skip=bool(how and how.skip_bad)) if path else []

    def encoded(
        self, path: str, category: str, config: RunConfig, how: SourceOptions | None = None
    ) -> tuple[list[TokenRow], SplitNotice | None]:
        """The rows of a file under `config`, and a notice when some had to be divided. Raises: InputError."""
        longest = config.train.max_tokens
        return self._once(
            ("rows", path, category, _key(how), config.system_prompt, longest),
            lambda: encode_records(self.encoder(config.system_prompt), self.records(path, category, how), longest),
        )

    def rows(self, config: RunConfig) -> Rows:
        """Every source and the validation rows of a run, encoded; long ones are divided, with a notice.

        Raises: InputError when no data is named or a file cannot be read.
        """
        if not config.sources:
            raise InputError("no training data; give `data` FILE or a recipe with `sources`")
        read = config.model_dump_json(include={"sources", "validation", "validation_share", "system_prompt"})
        return self._once(("run", read, config.train.max_tokens), lambda: self._rows(config))

    def _rows(self, config: RunConfig) -> Rows:
        found = {name: self.encoded(one.path, one.category, config, one) for name, one in config.sources.items()}
        notices = [
            notice for one in config.sources.values() for notice in self.reading(one.path, one.category, one).notices
        ]
        notices += [f"{name}: {notice}" for name, (_, notice) in found.items() if notice]
        sources = {name: rows for name, (rows, _) in found.items()}
        if config.validation or not config.validation_share:
            held_out, _ = self.encoded(config.validation, "domain", config)
            return Rows(sources, held_out, tuple(notices))
        return _divided(sources, config.validation_share, tuple(notices))

    def _once(self, key: tuple[Any, ...], make: Callable[[], _Found]) -> _Found:
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]


def _key(how: SourceOptions | None) -> str:
    return how.model_dump_json() if how else ""


def _divided(sources: dict[str, list[TokenRow]], share: float, notices: tuple[str, ...]) -> Rows:
    """Training rows, and held-out ones that no training row repeats; every source keeps at least one row.

    Which rows are held out follows from what they hold: the same ones whatever their order in the file.
    """
    kept, held_out = {}, []
    total = sum(map(len, sources.values()))
    for name, rows in sources.items():
        wanted = min(round(share * len(rows)), MOST_HELD_OUT * len(rows) // max(1, total))
        order = sorted({row_digest(row) for row in rows})
        chosen = set(order[: min(wanted, len(order) - 1)])
        kept[name] = [row for row in rows if row_digest(row) not in chosen]
        held_out += list({digest: row for row in rows if (digest := row_digest(row)) in chosen}.values())
    return Rows(kept, held_out, notices)


def row_digest(row: TokenRow) -> bytes:
    """Orders rows by what they hold, wherever they come from."""
    return hashlib.sha256(row.ids.tobytes()).digest()


def rows_digest(rows: Iterable[TokenRow]) -> str:
    """Identity of rows: their tokens and which of them are taught."""
    found = hashlib.sha256()
    _add(found, rows)
    return found.hexdigest()


def _add(digest: Any, rows: Iterable[TokenRow]) -> None:
    for row in rows:
        digest.update(row.ids.tobytes() + row.supervised.tobytes())
