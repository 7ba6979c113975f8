"""Reads and encodes the data files of runs, each file once, and identifies a run's rows by a digest."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import nsmallest
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from mlx_loopai.config import PreferenceOptions, SourceOptions
from mlx_loopai.data.chosen_rows import column_of, digests_of, judged_in, longest_of
from mlx_loopai.data.held_out import held_apart
from mlx_loopai.data.learnt import Learnt, RowForm, Source
from mlx_loopai.data.records import Reading, Record
from mlx_loopai.data.shelf import Shelf
from mlx_loopai.data.sight import Sight
from mlx_loopai.data.sources import reading_of
from mlx_loopai.data.token_cache import kept_rows
from mlx_loopai.data.tokens import ChatEncoder, TokenRow
from mlx_loopai.errors import InputError
from mlx_loopai.language import tr
from mlx_loopai.progress import Advance, ignore
from mlx_loopai.units import MIB

FIXED_ROWS = 32
# Reading and encoding a smaller file is quick and takes little memory: no progress is shown, and rows stay in memory.
LONG_BYTES = 2 * MIB
_Found = TypeVar("_Found")


@dataclass(frozen=True, kw_only=True)
class WantedRows:
    """The files of a run: its `sources` by name, and its held-out rows: a file, or a share of the sources.

    preference: whether, and how, judged answers are learnt.
    """

    sources: Mapping[str, SourceOptions]
    validation: str
    validation_share: float
    preference: PreferenceOptions
    form: RowForm

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for runs that read the same rows."""
        sources = tuple((name, how.model_dump_json()) for name, how in self.sources.items())
        return sources, self.validation, self.validation_share, self.preference.model_dump_json(), self.form


@dataclass(frozen=True)
class Rows:
    """Encoded rows by source name, and the held-out ones. `notices`: what a person should know about them."""

    sources: dict[str, Sequence[TokenRow]]
    held_out: list[TokenRow]
    notices: tuple[str, ...] = ()

    @property
    def validation(self) -> list[TokenRow]:
        """The held-out rows whose answers should become likelier: all but those with a bad label, or without answer."""
        return [row for row in self.held_out if row.good is not False and row.wishes is None]

    @property
    def judged(self) -> list[TokenRow]:
        """The held-out pairs, labelled answers and positions."""
        return [row for row in self.held_out if row.judged]

    @property
    def asked(self) -> list[TokenRow]:
        """The held-out prompts."""
        return [row for row in self.held_out if row.wishes is not None]

    @cached_property
    def longest_asked(self) -> int:
        """Tokens of the longest prompt; 0 without any."""
        return max((len(row.ids) for row in self.all if row.wishes is not None), default=0)

    def with_features(self, shelf: Shelf) -> Rows:
        """The same rows with the features of their pictures."""
        sources: dict[str, Sequence[TokenRow]] = {name: shelf.all_seen(rows) for name, rows in self.sources.items()}
        return Rows(sources, shelf.all_seen(self.held_out), self.notices)

    @property
    def all(self) -> Iterator[TokenRow]:
        """Every row."""
        return chain(*self.sources.values(), self.held_out)

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(int(longest_of(rows).max(initial=0)) for rows in (*self.sources.values(), self.held_out))

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens of every training row, in the order of the files."""
        return array("i", b"".join(column_of(rows, "tokens").tobytes() for rows in self.sources.values()))

    @cached_property
    def fixed(self) -> list[TokenRow]:
        """The rows on which a run's loss is reported before and after, whatever the order of training."""
        named = [
            (rows := self.sources[name], column_of(rows, "bad") | column_of(rows, "asked"))
            for name in sorted(self.sources)
        ]
        found = (
            (digest, number, place)
            for number, (rows, left_out) in enumerate(named)
            for place, digest in enumerate(digests_of(rows))
            if not left_out[place]
        )
        return [named[number][0][place] for _, number, place in nsmallest(FIXED_ROWS, found)]

    @cached_property
    def digest(self) -> str:
        """Hash of all rows, so that a run is not resumed on edited files, in the middle of other data."""
        found = hashlib.sha256()
        for name, rows in [*sorted(self.sources.items()), ("", self.held_out)]:
            found.update(f"{name}:{len(rows)}".encode())
            for digest in digests_of(rows, "content"):
                found.update(digest)
        return found.hexdigest()


# Called with the name of a long stage and its amount of work; returns the function to report progress to.
Stage = Callable[[str, int], Advance]


def unheard(name: str, total: int) -> Advance:
    """A `Stage` that reports nothing."""
    return ignore


class RowReader:
    """Reads data files and encodes them with one tokenizer, each file once, however many runs ask for it.

    Runs share the sequences, which nobody may change. Rows of large files lie on the disk.
    """

    def __init__(self, tokenizer: Any, sight: Sight | None = None, stage: Stage = unheard) -> None:
        self.tokenizer, self.sight, self._stage = tokenizer, sight, stage
        # Set once the features of the rows' pictures are computed.
        self.shelf: Shelf | None = None
        self._kept: dict[tuple[Any, ...], Any] = {}

    def encoder(self, system_prompt: str) -> ChatEncoder:
        """The encoder of rows and prompts with `system_prompt`."""
        return self._once(("encoder", system_prompt), lambda: ChatEncoder(self.tokenizer, system_prompt, self.sight))

    def reading(self, path: str, category: str, how: SourceOptions | None = None) -> Reading:
        """What is in a file, read once. Raises: InputError as `reading_of`."""

        def read() -> Reading:
            size = Path(path).stat().st_size if Path(path).is_file() else 0
            return reading_of(path, category, how, self._reading(tr("reading {name} (MiB)"), path, size))

        return self._once(("reading", path, category, _key(how)), read)

    def records(self, path: str, category: str, how: SourceOptions | None = None) -> list[Record]:
        """The records of a file or of samples/NAME; none without a path. Raises: InputError as `read_source`."""
        return self.reading(path, category, how).required(skip=bool(how and how.skip_bad)) if path else []

    def encoded(self, path: str, category: str, form: RowForm) -> Sequence[TokenRow]:
        """The rows of a file, none of them judged. Raises: InputError."""
        return self._learnt(
            Source(path=path, category=category, how=None, preference=PreferenceOptions(), form=form)
        ).rows

    def _learnt(self, source: Source) -> Learnt:
        """The rows of a source; none without a path."""
        if not source.path:
            return Learnt([])
        key = source.path, source.category, _key(source.how), source.preference.model_dump_json(), source.form
        return self._once(("learnt", *key), lambda: self._read(source))

    def _read(self, source: Source) -> Learnt:
        encoder = self.encoder(source.form.system_prompt)
        size = source.scan.size_bytes if source.scan else 0
        # A file of encoded rows (data/row_file.py) cannot hold pictures, or what is wished of answers.
        if size >= LONG_BYTES and self.sight is None and not source.preference.takes_prompts:
            on_read = self._reading(tr("reading and encoding {name} (MiB)"), source.path, size)
            return kept_rows(source, encoder, self.tokenizer, on_read)
        rows: list[TokenRow] = []
        reading = self.reading(source.path, source.category, source.how)
        return Learnt(rows, *source.encode_into(rows, encoder, reading=reading))

    def _reading(self, stage: str, path: str, size: int) -> Advance:
        """The function to report the bytes read to; it shows progress for large files only."""
        if size < LONG_BYTES:
            return ignore
        advance = self._stage(stage.format(name=Path(path).name), -(-size // MIB))
        return lambda done, note="", /: advance(done // MIB)

    def rows(self, wanted: WantedRows) -> Rows:
        """Every source and the validation rows of a run, encoded; long ones are divided, with a notice.

        Raises: InputError when no data is named or a file cannot be read.
        """
        if not wanted.sources:
            raise InputError(tr("no training data; give `data` FILE or a recipe with `sources`"))
        rows, shelf = self._once(("run", wanted.key), lambda: self._rows(wanted)), self.shelf
        if shelf is None:
            return rows
        return self._once(("seen", id(shelf), wanted.key), lambda: rows.with_features(shelf))

    def _rows(self, wanted: WantedRows) -> Rows:
        preference = wanted.preference

        def learnt(path: str, category: str, how: SourceOptions | None) -> Learnt:
            return self._learnt(Source(path=path, category=category, how=how, preference=preference, form=wanted.form))

        found = {name: learnt(one.path, one.category, one) for name, one in wanted.sources.items()}
        notices = [notice for one in found.values() for notice in one.notices]
        notices += [f"{name}: {one.split}" for name, one in found.items() if one.split]
        sources = {name: one.rows for name, one in found.items()}
        if preference.is_on and not any(_learnt_by(preference, rows) for rows in sources.values()):
            raise InputError(_none_judged(preference, sources))
        if wanted.validation or not wanted.validation_share:
            rows = Rows(sources, [*learnt(wanted.validation, "domain", None).rows], tuple(notices))
        else:
            rows = Rows(*held_apart(sources, wanted.validation_share), tuple(notices))
        if preference.takes_prompts:
            _check_room(preference, rows.all, wanted.form.max_tokens)
        return rows

    def _once(self, key: tuple[Any, ...], make: Callable[[], _Found]) -> _Found:
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]


def _learnt_by(preference: PreferenceOptions, rows: Sequence[TokenRow]) -> bool:
    """Whether any of `rows` is of the kind that the objective learns from."""
    return bool((column_of(rows, "asked") if preference.takes_prompts else judged_in(rows)).any())


def _check_room(preference: PreferenceOptions, rows: Iterable[TokenRow], max_tokens: int) -> None:
    """Raises: InputError naming a prompt after which an answer may be longer than a row."""
    room = max_tokens - preference.answer_tokens
    for row in rows:
        if row.wishes is not None and len(row.ids) > room:
            raise InputError(
                tr(
                    "{origin}: {tokens} tokens and an answer of {answer_tokens} are more than the {max_tokens} of a "
                    "row; raise train.max_tokens, or lower preference.answer_tokens",
                    origin=row.origin,
                    tokens=len(row.ids),
                    answer_tokens=preference.answer_tokens,
                    max_tokens=max_tokens,
                )
            )


def _none_judged(preference: PreferenceOptions, sources: Iterable[str]) -> str:
    known = {"objective": preference.objective, "sources": ", ".join(sources)}
    if preference.takes_prompts:
        return tr(
            "preference.objective {objective}: none of {sources} holds a prompt without an answer; give such rows, "
            "read only the prompts with `kind: prompts`, or set it to none",
            **known,
        )
    if preference.takes_positions:
        return tr(
            "preference.objective {objective}: none of {sources} holds a position in an answer; make such rows with "
            "`feedback positions`, or set it to none",
            **known,
        )
    return tr(
        "preference.objective {objective}: none of {sources} holds a pair of answers or one with a "
        "label; give such rows, or set it to none",
        **known,
    )


def _key(how: SourceOptions | None) -> str:
    return how.model_dump_json() if how else ""
