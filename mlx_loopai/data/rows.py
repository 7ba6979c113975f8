"""Reads and encodes the data files of runs, each once, and tells the rows of one run from those of another."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from mlx_loopai.config import PreferenceOptions, SourceOptions
from mlx_loopai.data.encoding import SplitNotice, encode_judged, encode_records
from mlx_loopai.data.pairs import Label
from mlx_loopai.data.records import Reading, Record
from mlx_loopai.data.shelf import Shelf
from mlx_loopai.data.sight import Sight
from mlx_loopai.data.sources import reading_of
from mlx_loopai.data.tokens import ChatEncoder, TokenRow
from mlx_loopai.errors import InputError
from mlx_loopai.language import tr
from mlx_loopai.progress import Advance, ignore
from mlx_loopai.units import MIB

FIXED_ROWS = 32
MOST_HELD_OUT = 64
# Reading and encoding less than this takes no time that somebody would wonder about.
_LONG_BYTES, _LONG_ROWS = 2 * MIB, 2000
_Found = TypeVar("_Found")


@dataclass(frozen=True)
class RowForm:
    """How a record becomes rows: under `system_prompt`, divided where it has more than `max_tokens`."""

    system_prompt: str
    max_tokens: int


@dataclass(frozen=True, kw_only=True)
class WantedRows:
    """The files of a run: its `sources` by name, and the held-out rows, of a file or a share of the sources.

    preference: whether judged answers are learnt from, and of which kind.
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

    sources: dict[str, list[TokenRow]]
    held_out: list[TokenRow]
    notices: tuple[str, ...] = ()

    @property
    def validation(self) -> list[TokenRow]:
        """The held-out rows whose answers should become likelier: all but those with a bad label."""
        return [row for row in self.held_out if row.good is not False]

    @property
    def judged(self) -> list[TokenRow]:
        """The held-out pairs and labelled answers."""
        return [row for row in self.held_out if row.judged]

    def with_features(self, shelf: Shelf) -> Rows:
        """The same with the features of their pictures."""
        sources = {name: shelf.all_seen(rows) for name, rows in self.sources.items()}
        return Rows(sources, shelf.all_seen(self.held_out), self.notices)

    @property
    def all(self) -> list[TokenRow]:
        """Every row."""
        return [row for rows in (*self.sources.values(), self.held_out) for row in rows]

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(row.longest for rows in (*self.sources.values(), self.held_out) for row in rows)

    @property
    def lengths(self) -> list[int]:
        """Tokens of every training row, in the order of the files."""
        return [len(row.ids) for rows in self.sources.values() for row in rows]

    @cached_property
    def fixed(self) -> list[TokenRow]:
        """The rows on which a run's loss is reported before and after, whatever the order of training."""
        found = [row for name in sorted(self.sources) for row in self.sources[name] if row.good is not False]
        return sorted(found, key=row_digest)[:FIXED_ROWS]

    @cached_property
    def digest(self) -> str:
        """Identity of everything read: a run resumed on edited files would go on in the middle of other data."""
        found = hashlib.sha256()
        for name, rows in [*sorted(self.sources.items()), ("", self.held_out)]:
            found.update(f"{name}:{len(rows)}".encode())
            _add(found, rows)
        return found.hexdigest()


# Called with the name of a stage that takes long and how much it has to do; gives what hears of its progress.
Stage = Callable[[str, int], Advance]


def unheard(name: str, total: int) -> Advance:
    """The stage of a caller that wants no progress."""
    return ignore


class RowReader:
    """Reads data files and encodes them with one tokenizer, each file once, however many runs ask for it.

    Rows that several runs share are one list: they are read only.
    """

    def __init__(self, tokenizer: Any, sight: Sight | None = None, stage: Stage = unheard) -> None:
        self._tokenizer, self.sight, self._stage = tokenizer, sight, stage
        # Of the pictures of the rows, once their features are computed.
        self.shelf: Shelf | None = None
        self._kept: dict[tuple[Any, ...], Any] = {}

    def encoder(self, system_prompt: str) -> ChatEncoder:
        """The encoder of rows and prompts with `system_prompt`."""
        return self._once(("encoder", system_prompt), lambda: ChatEncoder(self._tokenizer, system_prompt, self.sight))

    def reading(self, path: str, category: str, how: SourceOptions | None = None) -> Reading:
        """What is in a file, read once. Raises: InputError as `reading_of`."""

        def read() -> Reading:
            size = Path(path).stat().st_size if Path(path).is_file() else 0
            if size < _LONG_BYTES:
                return reading_of(path, category, how)
            advance = self._stage(tr("reading {name} (MiB)", name=Path(path).name), -(-size // MIB))
            return reading_of(path, category, how, lambda done, note="": advance(done // MIB))

        return self._once(("reading", path, category, _key(how)), read)

    def records(self, path: str, category: str, how: SourceOptions | None = None) -> list[Record]:
        """The records of a file or of samples/NAME; none without a path. Raises: InputError as `read_source`."""
        return self.reading(path, category, how).required(skip=bool(how and how.skip_bad)) if path else []

    def answers(self, path: str, category: str, how: SourceOptions) -> list[Record]:
        """The records of a file and its chosen and good answers. Raises: InputError as `read_source`."""
        return self.reading(path, category, how).checked(how.skip_bad).answers

    def encoded(
        self, path: str, category: str, form: RowForm, how: SourceOptions | None = None
    ) -> tuple[list[TokenRow], SplitNotice | None]:
        """The rows of a file, and a notice when some had to be divided. Raises: InputError."""
        return self._once(
            ("rows", path, category, _key(how), form),
            lambda: self._encode(self.records(path, category, how), form),
        )

    def _encode(self, records: list[Record], form: RowForm) -> tuple[list[TokenRow], SplitNotice | None]:
        long = len(records) >= _LONG_ROWS
        advance = self._stage(tr("counting tokens of rows"), len(records)) if long else ignore
        return encode_records(self.encoder(form.system_prompt), records, form.max_tokens, advance)

    def _learnt(
        self, path: str, category: str, wanted: WantedRows, how: SourceOptions | None = None
    ) -> tuple[list[TokenRow], SplitNotice | None]:
        """As `encoded`, with the judged answers of the file, after its other rows, where the run learns from them."""
        form = wanted.form
        if not path or not wanted.preference.is_on:
            return self.encoded(path, category, form, how)
        reading = self.reading(path, category, how).checked(bool(how and how.skip_bad))
        _refuse_labels(reading, wanted.preference)
        rows, notice = self._encode(reading.records, form)
        return rows + encode_judged(self.encoder(form.system_prompt), reading.judged, form.max_tokens), notice

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
        named, preference = wanted.sources, wanted.preference
        found = {name: self._learnt(one.path, one.category, wanted, one) for name, one in named.items()}
        notices = [notice for one in named.values() for notice in self.reading(one.path, one.category, one).notices]
        notices += [f"{name}: {notice}" for name, (_, notice) in found.items() if notice]
        sources = {name: rows for name, (rows, _) in found.items()}
        if preference.is_on and not any(row.judged for rows in sources.values() for row in rows):
            raise InputError(
                tr(
                    "preference.objective {objective}: none of {sources} holds a pair of answers or one with a "
                    "label; give such rows, or set it to none",
                    objective=preference.objective,
                    sources=", ".join(sources),
                )
            )
        if wanted.validation or not wanted.validation_share:
            held_out, _ = self._learnt(wanted.validation, "domain", wanted)
            return Rows(sources, held_out, tuple(notices))
        return _divided(sources, wanted.validation_share, tuple(notices))

    def _once(self, key: tuple[Any, ...], make: Callable[[], _Found]) -> _Found:
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]


def _refuse_labels(reading: Reading, options: PreferenceOptions) -> None:
    labels = [] if options.takes_labels else [one.origin for one in reading.judged if isinstance(one, Label)]
    if labels:
        raise InputError(
            tr(
                "{origin}: a single answer with a label ({n_rows} such rows), and preference.objective "
                "{objective} learns from pairs; set it to apo or kto",
                origin=labels[0],
                n_rows=len(labels),
                objective=options.objective,
            )
        )


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
        groups: dict[bytes, set[str]] = {}
        for row in rows:
            groups.setdefault(_held_together(row), set()).add(rows_digest([row]))
        chosen = _filling(groups, wanted)
        kept[name] = [row for row in rows if _held_together(row) not in chosen]
        held_out += list({rows_digest([row]): row for row in rows if _held_together(row) in chosen}.values())
    return Rows(kept, held_out, notices)


def _filling(groups: dict[bytes, set[str]], wanted: int) -> set[bytes]:
    """Whole groups, in the order of their names, with about `wanted` rows together; one group is always left."""
    chosen: set[bytes] = set()
    count = 0
    for name in sorted(groups)[:-1]:
        if count >= wanted:
            break
        chosen.add(name)
        count += len(groups[name])
    return chosen


def _held_together(row: TokenRow) -> bytes:
    """The same for rows that are held out together: equal ones, and judged answers to one prompt."""
    if not row.judged:
        return row_digest(row)
    prompt = row.ids[: int(row.supervised.argmax())]
    return hashlib.sha256(prompt.tobytes() + _shown(row)).digest()


def row_digest(row: TokenRow) -> bytes:
    """Orders rows by what they hold, wherever they come from."""
    return hashlib.sha256(row.ids.tobytes() + _shown(row)).digest()


def _shown(row: TokenRow) -> bytes:
    """Which pictures a row shows: two rows of the same tokens may show others."""
    return "".join(picture.digest for picture in row.pictures).encode()


def rows_digest(rows: Iterable[TokenRow]) -> str:
    """Identity of rows: their tokens, which of them are taught, and how their answers were judged."""
    found = hashlib.sha256()
    _add(found, rows)
    return found.hexdigest()


def _add(digest: Any, rows: Iterable[TokenRow]) -> None:
    for row in rows:
        digest.update(row.ids.tobytes() + row.supervised.tobytes() + _shown(row))
        if row.good is not None:
            digest.update(b"good" if row.good else b"bad")
        if row.rejected is not None:
            _add(digest, [row.rejected])
