"""Reads, checks and encodes the rows of one source, one after the other, without holding them in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from mlx_loopai.config import PreferenceOptions, SourceOptions
from mlx_loopai.data.encoding import Sink, SplitNotice, encode_into
from mlx_loopai.data.pairs import Judged, Pair
from mlx_loopai.data.positions import Position
from mlx_loopai.data.records import (
    BadRow,
    Read,
    Reading,
    Record,
    Scan,
    as_bad_row,
    is_worse,
    notices,
    refuse_bad,
    refuse_empty,
    refuse_worse,
)
from mlx_loopai.data.sources import rows_of, scan_of
from mlx_loopai.data.tokens import ChatEncoder, TokenRow
from mlx_loopai.data.unanswered import Unanswered
from mlx_loopai.errors import InputError
from mlx_loopai.language import tr
from mlx_loopai.progress import Advance, ignore


@dataclass(frozen=True)
class Learnt:
    """The rows of a source. split: how many records had to be divided; notices: lines for a person."""

    rows: Sequence[TokenRow]
    split: SplitNotice | None = None
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class RowForm:
    """How a record becomes rows: under `system_prompt`, divided where it has more than `max_tokens`."""

    system_prompt: str
    max_tokens: int


@dataclass(frozen=True, kw_only=True)
class Source:
    """A source with the options under which a run reads it. preference: whether, and how, judged answers are learnt."""

    path: str
    category: str
    how: SourceOptions | None
    preference: PreferenceOptions
    form: RowForm

    @cached_property
    def scan(self) -> Scan | None:
        """Its files of rows; None for stories and samples, which are small. Raises: InputError as `scan_of`."""
        return scan_of(self.path, self.category, self.how)

    def encode_into(
        self, rows: Sink, encoder: ChatEncoder, on_read: Advance = ignore, reading: Reading | None = None
    ) -> tuple[SplitNotice | None, tuple[str, ...]]:
        """Encode all rows of the source, in order, into `rows`; returns (how many were divided, notices for a person).

        on_read: called with the number of bytes read. reading: the source's content, where it was read before.

        Raises: InputError naming what cannot be read, learnt or encoded.
        """
        sifted = Sifted(self.preference, skips=bool(self.how and self.how.skip_bad))
        reads: Iterable[Read] = rows_of(self.path, self.category, self.how, self.scan, on_read)
        if reading is not None:
            reads = (*reading.bad, *reading.records, *reading.judged)
        split = encode_into(rows, encoder, sifted.learnt(reads), self.form.max_tokens)
        sifted.check(Path(self.path) if self.scan is None else self.scan.path)
        if reading is not None:
            return split, reading.notices
        assert self.scan is not None, "anything but a file of rows has been read"
        return split, notices(self.scan.path, self.scan.unused, sifted.bad, self.scan.left_out_files)


@dataclass
class Sifted:
    """Passes on the rows to be learnt, and collects reasons to refuse the whole source.

    preference: whether, and how, judged answers are learnt. skips: bad rows are no such reason.
    """

    preference: PreferenceOptions = field(default_factory=PreferenceOptions)
    skips: bool = False
    rows: int = 0
    bad: list[BadRow] = field(default_factory=list)
    worse: list[str] = field(default_factory=list)
    unfit: list[Judged] = field(default_factory=list)

    def learnt(self, reads: Iterable[Read]) -> Iterator[Record | Judged]:
        """The rows to be learnt; after the first reason to refuse, no more of them."""
        for read in reads:
            if isinstance(read, Unanswered) and not self.preference.takes_prompts:
                read = as_bad_row(read)
            if isinstance(read, BadRow):
                self.bad.append(read)
                continue
            self.rows += 1
            one = self._taught(read)
            if one is not None and not (self.worse or self.unfit or (self.bad and not self.skips)):
                yield one

    def _taught(self, read: Record | Judged) -> Record | Judged | None:
        if isinstance(read, Record):
            return read
        if self.preference.is_on:
            if not self._fits(read):
                self.unfit.append(read)
            return read
        if is_worse(read):
            self.worse.append(read.origin)
        return read.better

    def _fits(self, read: Judged) -> bool:
        """Whether the objective learns from such rows."""
        if self.preference.takes_prompts:
            return isinstance(read, Unanswered)
        if self.preference.takes_positions or isinstance(read, Position):
            return self.preference.takes_positions and isinstance(read, Position)
        return isinstance(read, Pair) or self.preference.takes_labels

    def check(self, path: Path) -> None:
        """Raises: InputError saying why the source is refused."""
        refuse_bad([] if self.skips else self.bad)
        refuse_worse(self.worse)
        if self.unfit:
            raise InputError(self._unfit(self.unfit[0]))
        if not self.rows:
            refuse_empty(path, self.bad)

    def _unfit(self, first: Judged) -> str:
        known = {"origin": first.origin, "n_rows": len(self.unfit), "objective": self.preference.objective}
        if self.preference.takes_prompts:
            return tr(
                "{origin}: an answer that was judged ({n_rows} such rows), and preference.objective {objective} judges "
                "the model's own; set it to dpo, apo or tlpo, or read only the prompts with `kind: prompts`",
                **known,
            )
        if isinstance(first, Position):
            return tr(
                "{origin}: a position in an answer ({n_rows} such rows), and preference.objective {objective} learns "
                "from whole answers; set it to tlpo",
                **known,
            )
        if self.preference.takes_positions:
            return tr(
                "{origin}: a whole answer that was judged ({n_rows} such rows), and preference.objective {objective} "
                "learns from positions in answers; set it to apo, or make positions with `feedback positions`",
                **known,
            )
        return tr(
            "{origin}: a single answer with a label ({n_rows} such rows), and preference.objective "
            "{objective} learns from pairs; set it to apo or kto",
            **known,
        )
