"""Reads records from files and folders of rows; collects rows that are not records, and fields that nothing reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

from mlx_loopai.config.sources import SourceKind
from mlx_loopai.data.conversation import ROLES as ROLES
from mlx_loopai.data.conversation import Kind as Kind
from mlx_loopai.data.conversation import Message as Message
from mlx_loopai.data.conversation import Record as Record
from mlx_loopai.data.formats import Problem, RawRow, row_files, stream_rows
from mlx_loopai.data.images import picture_in
from mlx_loopai.data.pairs import Judged, Label, Pair, read_judged
from mlx_loopai.data.positions import Position
from mlx_loopai.data.shapes import Meaning
from mlx_loopai.data.shapes import user_text as user_text
from mlx_loopai.data.turns import UnreadableError
from mlx_loopai.data.unanswered import Unanswered
from mlx_loopai.errors import InputError, all_problems
from mlx_loopai.language import tr
from mlx_loopai.progress import Advance, ignore, part

_LISTED = 3


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be read as a record. `empty`: only because one of its answers is empty."""

    origin: str  # "file:line"
    reason: str
    empty: bool = False

    def __str__(self) -> str:
        return f"{self.origin}: {self.reason}"


@dataclass(frozen=True)
class Reading:
    """What a file or folder holds. `unused`: field that nothing reads -> number of rows that have it.

    judged: its pairs, labelled answers, positions and prompts without an answer, which are not among `records`.
    """

    path: Path
    records: list[Record]
    bad: list[BadRow]
    unused: dict[str, int]
    left_out_files: tuple[Path, ...] = ()
    judged: tuple[Judged, ...] = ()

    @property
    def answers(self) -> list[Record]:
        """Everything that may be learnt as an ordinary answer: the records, and the chosen and good answers."""
        return [*self.records, *(one.better for one in self.judged if one.better is not None)]

    def required(self, skip: bool = False, skip_empty: bool = False) -> list[Record]:
        """The records, and the answers with a good label.

        Raises: InputError as `checked`, and for rows of which more than a good answer is to be learnt.
        """
        asked = [as_bad_row(one) for one in self.judged if isinstance(one, Unanswered)]
        replace(self, bad=[*self.bad, *asked]).checked(skip, skip_empty)
        refuse_worse([one.origin for one in self.judged if is_worse(one)])
        return self.answers

    def checked(self, skip: bool = False, skip_empty: bool = False) -> Reading:
        """This reading.

        Raises: InputError with every bad row, unless `skip` is set (or `skip_empty`, for rows that are only empty), and
        when no row is left.
        """
        refuse_bad([row for row in self.bad if not (skip or (skip_empty and row.empty))])
        if not self.records and not self.judged:
            refuse_empty(self.path, self.bad)
        return self

    @property
    def notices(self) -> tuple[str, ...]:
        """What a person should know about the rows, a line each."""
        return notices(self.path, self.unused, self.bad, self.left_out_files)


def notices(
    path: Path, unused: Iterable[str], bad: Sequence[BadRow], left_out_files: Iterable[Path]
) -> tuple[str, ...]:
    """What a person should know about the rows of `path`, a line each; the parameters as in `Reading`."""
    found = []
    if names := ", ".join(sorted(unused)):
        found.append(tr("{path}: fields not used: {unused}", path=path, unused=names))
    if bad:
        found.append(tr("{path}: left out {left_out}", path=path, left_out=left_out(bad)))
    if names := ", ".join(sorted(str(file.relative_to(path)) for file in left_out_files)):
        found.append(tr("{path}: of its files these are left out: {names}", path=path, names=names))
    return tuple(found)


def refuse_bad(bad: Sequence[BadRow]) -> None:
    """Raises: InputError naming the rows in `bad`, if there are any."""
    if bad:
        raise InputError(all_problems(_once_each(bad)))


def refuse_empty(path: Path, bad: Sequence[BadRow]) -> NoReturn:
    """Raises: InputError for a source without a row that can be learnt."""
    why = tr("no rows that can be learnt") if bad else tr("no rows")
    raise InputError(tr("{path}: holds {why}; give a file with at least one", path=path, why=why))


def is_worse(one: Judged) -> bool:
    """Whether a row holds more than a good answer, so that it must not be learnt as an ordinary one."""
    return not (isinstance(one, Unanswered) or (isinstance(one, Label) and one.good))


def as_bad_row(one: Unanswered) -> BadRow:
    """What a prompt without an answer is where answers are learnt: a row that cannot be."""
    reason = tr(
        "a prompt without an answer: add it as `completion`, or let the model answer (preference.objective grpo)"
    )
    return BadRow(one.origin, reason, empty=True)


def refuse_worse(origins: Sequence[str]) -> None:
    """Raises: InputError naming the rows that are read as ordinary ones though `is_worse`, where there are any."""
    if origins:
        raise InputError(
            tr(
                "{origin}: a pair of answers, one with a bad label, or a position in one ({n_rows} such rows), where "
                "ordinary rows are read; learn from them with `preference.objective`, such as dpo for pairs and tlpo "
                "for positions, or read only the chosen and good answers with `kind: rows`",
                origin=origins[0],
                n_rows=len(origins),
            )
        )


def _once_each(bad: Sequence[BadRow]) -> list[str]:
    """Every row; of many that are wrong in the same way the first, and how many others there are."""
    parts: list[str] = []
    for reason, rows in _by_reason(bad).items():
        if len(rows) <= _LISTED:
            parts += map(str, rows)
            continue
        more = tr(" (and {count} more rows, such as line {line})", count=len(rows) - 1, line=_line(rows[1]))
        parts.append(f"{rows[0].origin}: {reason}{more}")
    return parts


def _by_reason(bad: Iterable[BadRow]) -> dict[str, list[BadRow]]:
    found: dict[str, list[BadRow]] = {}
    for row in bad:
        found.setdefault(row.reason, []).append(row)
    return found


def _line(row: BadRow) -> str:
    return row.origin.rpartition(":")[2]


def left_out(bad: Iterable[BadRow]) -> str:
    """One line about rows that were left out: how many for which reason, and where the first ones are."""
    rows = list(bad)
    parts = []
    for reason, found in _by_reason(rows).items():
        lines = [_line(row) for row in found]
        more = ", ..." if len(lines) > _LISTED else ""
        parts.append(
            tr(
                "{reason} ({count}: line {lines}{more})",
                reason=reason,
                count=len(lines),
                lines=", ".join(lines[:_LISTED]),
                more=more,
            )
        )
    return tr("{count} rows: {reasons}", count=len(rows), reasons="; ".join(parts))


Read = Record | Judged | BadRow


@dataclass(frozen=True)
class Scan:
    """Files of rows that are read one row at a time, so that memory does not grow with them.

    unused: as in `Reading`; complete when all rows have been read.
    """

    path: Path
    files: tuple[Path, ...]
    left_out_files: tuple[Path, ...]
    category: str = "domain"
    columns: Mapping[str, str] = field(default_factory=dict)
    kind: SourceKind = "auto"
    unused: Counter[str] = field(default_factory=Counter)

    @staticmethod
    def of(
        path: Path,
        category: str = "domain",
        columns: Mapping[str, str] | None = None,
        split: str = "train",
        kind: SourceKind = "auto",
    ) -> Scan:
        """The file, or the files of a folder that are of `split`; the rest as `read_all`. Raises: InputError."""
        files, others = row_files(path, split)
        return Scan(
            path, files=tuple(files), left_out_files=others, category=category, columns=columns or {}, kind=kind
        )

    @property
    def size_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files if file.is_file())

    def rows(self, on_read: Advance = ignore) -> Iterator[Read]:
        """Every row in order. `on_read` is called with the bytes read so far. Raises: InputError as `read_all`."""
        before = 0
        for file in self.files:
            for item in _renamed(stream_rows(file, part(on_read, before, file.name)), self.columns, file):
                yield self._read(item, file)
            before += file.stat().st_size

    def _read(self, item: RawRow | Problem, file: Path) -> Read:
        origin = f"{file}:{item.line}"
        if isinstance(item, Problem):
            return BadRow(origin, item.reason)
        try:
            read = read_judged(item.values, self.kind)
        except UnreadableError as reason:
            return BadRow(origin, str(reason), reason.empty)
        if read.meaning.unused:
            self.unused.update(read.meaning.unused)
        try:
            record = _record(read.meaning, self.category, origin, file.parent)
            if read.rejected is not None:
                return Pair(record, _record(read.rejected, self.category, origin, file.parent))
        except InputError as error:
            return BadRow(origin, str(error))
        if read.begun is not None:
            return Position(record, read.begun)
        if read.wishes is not None:
            return Unanswered(record, read.wishes)
        return record if read.good is None else Label(record, read.good)


def read_all(
    path: Path,
    category: str = "domain",
    columns: Mapping[str, str] | None = None,
    split: str = "train",
    kind: SourceKind = "auto",
    on_read: Advance = ignore,
) -> Reading:
    """What a JSONL, JSON, CSV or Parquet file holds, or the files of a folder that are of `split`, in order.

    columns: our name of a field -> the file's own, such as {"prompt": "질문"}. kind: whether its rows are pairs,
    labelled answers, positions, prompts or ordinary rows; `auto`: decided for each row. `on_read` is called with the
    bytes read so far.

    Raises: InputError when a file as a whole cannot be read, or has no field that `columns` names.
    """
    scan = Scan.of(Path(path), category, columns, split, kind)
    records: list[Record] = []
    judged: list[Judged] = []
    bad: list[BadRow] = []
    for row in scan.rows(on_read):
        if isinstance(row, Record):
            records.append(row)
        elif isinstance(row, BadRow):
            bad.append(row)
        else:
            judged.append(row)
    return Reading(scan.path, records, bad, dict(scan.unused), scan.left_out_files, tuple(judged))


def _record(meaning: Meaning, category: str, origin: str, folder: Path) -> Record:
    """The record, its pictures found in `folder`. Raises: InputError for a picture that is not there."""
    messages = meaning.messages
    if any(message.pictures for message in messages):
        messages = tuple(
            replace(message, pictures=tuple(picture_in(folder, one.name) for one in message.pictures))
            for message in messages
        )
    return Record(messages, kind=meaning.kind, category=category, origin=origin, tools=meaning.tools)


def _renamed(items: Iterable[RawRow | Problem], columns: Mapping[str, str], file: Path) -> Iterator[RawRow | Problem]:
    """Rows whose fields have our names where `columns` maps them. Raises: InputError after the last, for a field that
    no row has.
    """
    ours = {theirs: name for name, theirs in columns.items()}
    names: set[str] = set()
    for item in items:
        if not ours or isinstance(item, Problem) or not isinstance(item.values, Mapping):
            yield item
            continue
        values = item.values
        names.update(map(str, values))
        kept = {name: value for name, value in values.items() if name not in ours and name not in columns}
        yield replace(item, values=kept | {ours[name]: values[name] for name in values if name in ours})
    missing = sorted(ours.keys() - names)
    if missing:
        raise InputError(
            tr(
                "{file}: has no field {missing}, which `columns` names; it has {names}",
                file=file,
                missing=", ".join(missing),
                names=", ".join(sorted(names)[:12]),
            )
        )


def read_records(path: Path, category: str = "domain") -> list[Record]:
    """The records of a JSONL, JSON, CSV or Parquet file, or of a folder's training files, in order.

    Raises: InputError with every problem (at most 10 listed), each with file:line.
    """
    return read_all(Path(path), category).required()
