"""Audits a data set before it is trained on: languages, markup, repeats, leaks, personal data, lengths."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from heapq import merge
from types import TracebackType

from mlx_loopai.data.batches import choose_widths, plan_steps, real_token_share
from mlx_loopai.data.duplicates import Spool, TextIndex
from mlx_loopai.data.judged_audit import PreferenceAudit, PreferenceAuditor
from mlx_loopai.data.pairs import Judged
from mlx_loopai.data.personal import PATTERNS, personal_hints
from mlx_loopai.data.records import Record
from mlx_loopai.data.row_groups import RowGroups
from mlx_loopai.data.special import USUAL_NAME
from mlx_loopai.language import tr
from mlx_loopai.progress import Advance, ignore
from mlx_loopai.text.filter import clean
from mlx_loopai.text.measures import json_shaped
from mlx_loopai.text.scripts import Script, script_counts

CONTAMINATION = ("html", "code", "url", "emoji", "control", "foreign")
_PERSONAL, _NAMES = "personal:", "control names"
_EXAMPLES = 5
_ROWS_PER_STEP = 8
# Padding is measured on at most this many rows, evenly spread over the file.
_PLANNED_ROWS = 20_000
_MOSTLY = 0.5
_LETTERS = frozenset(script.value for script in Script if script.is_letter)


@dataclass(frozen=True)
class Finding:
    """One kind of finding: in how many rows, and the origins (file:line) of the first of them."""

    rows: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Audit:
    """What `audit` found.

    languages: script of most letters of the answers -> rows. json_shaped: rows with an answer that begins as JSON.
    contamination: rule of the text filter -> rows it would change. duplicates, near_duplicates: rows beyond the first
    of each group (near ones include the exact). leaked: training rows whose text is (nearly) a validation row's.
    control_names: rows whose text holds the name of a control token, such as `<|im_end|>`.
    lengths: upper bound (a power of two, in `length_unit`) -> rows. real_token_share: share of tokens that are not
    padding in batches as training makes them; None without a tokenizer. preferences: audit of the pairs and labelled
    answers, whose chosen and good answers are among the rows; None without any.
    """

    rows: int
    categories: dict[str, int]
    languages: dict[str, int]
    json_shaped: Finding
    contamination: dict[str, Finding]
    personal: dict[str, Finding]
    duplicates: Finding
    near_duplicates: Finding
    leaked: Finding
    control_names: Finding
    length_unit: str
    lengths: dict[int, int]
    longest: int
    real_token_share: float | None
    preferences: PreferenceAudit | None = None

    @property
    def warnings(self) -> list[str]:
        """What to mend before training, one line each with the next action."""
        found = []
        if self.json_shaped.rows:
            found.append(
                tr(
                    "{found} of {rows} rows are answered in JSON: a model trained on them answers everything in "
                    "JSON; turn them into natural text with `mlx-loopai data convert`",
                    found=self.json_shaped.rows,
                    rows=self.rows,
                )
            )
        if self.leaked.rows:
            found.append(
                tr("{rows} training rows are in the validation rows too: remove them there", rows=self.leaked.rows)
            )
        if self.near_duplicates.rows:
            found.append(
                tr("{rows} rows repeat another, or nearly: they count more than once", rows=self.near_duplicates.rows)
            )
        if self.control_names.rows:
            found.append(
                tr(
                    "{rows} rows hold names of control tokens, such as <|im_end|>: they are learnt as text; take "
                    "them out",
                    rows=self.control_names.rows,
                )
            )
        if self.personal:
            kinds = ", ".join(f"{kind} ({finding.rows})" for kind, finding in self.personal.items())
            found.append(tr("rows that may hold personal data: {kinds}; look at them before training", kinds=kinds))
        return found + (self.preferences.warnings if self.preferences else [])


def audit(
    records: Sequence[Record],
    validation: Sequence[Record] = (),
    count_tokens: Callable[[Record], int] | None = None,
    on_progress: Advance = ignore,
    judged: Iterable[Judged] = (),
) -> Audit:
    """Look at every row once. Without `count_tokens` lengths are in characters.

    judged: the pairs and labelled answers whose chosen and good answers are in `records`.
    """
    with Auditor(count_tokens) as auditor:
        for done, record in enumerate(records, start=1):
            auditor.add_record(record)
            on_progress(done)
        for one in judged:
            auditor.preferences.add(one)
        return auditor.finished(validation)


@dataclass
class _Tally:
    """How many rows, and the origins of the first of them."""

    rows: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, origin: str) -> None:
        self.rows += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(origin)

    @property
    def finding(self) -> Finding:
        return Finding(self.rows, tuple(self.examples))


@dataclass
class _Lengths:
    """How long rows are. drawn: the lengths of at most `_PLANNED_ROWS` rows, evenly spread over the file."""

    rows: int = 0
    longest: int = 0
    histogram: Counter[int] = field(default_factory=Counter)  # a power of two -> rows of at most that length
    drawn: array[int] = field(default_factory=lambda: array("q"))
    _every: int = 1

    def add(self, length: int) -> None:
        if self.rows % self._every == 0:
            self.drawn.append(length)
            if len(self.drawn) > _PLANNED_ROWS:
                del self.drawn[1::2]
                self._every *= 2
        self.rows += 1
        self.longest = max(self.longest, length)
        self.histogram[1 << max(0, length - 1).bit_length()] += 1


class Auditor:
    """Audits rows one by one; what grows with their number lies in unnamed files.

    Use it as a context manager.
    """

    def __init__(self, count_tokens: Callable[[Record], int] | None = None) -> None:
        self.preferences = PreferenceAuditor()
        self._count_tokens = count_tokens
        self._index, self._origins = TextIndex(), Spool()
        self._lengths = _Lengths()
        self._categories: Counter[str] = Counter()
        self._languages: Counter[str] = Counter()
        self._found: dict[str, _Tally] = defaultdict(_Tally)

    def __enter__(self) -> Auditor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for holder in (self._index, self._origins, self.preferences):
            holder.close()

    def __len__(self) -> int:
        """How many rows were taken in that training learns."""
        return self._lengths.rows

    def add(self, row: Record | Judged) -> None:
        """Take in a row of any kind; a judged one counts by its better answer, if it has one."""
        if isinstance(row, Record):
            self.add_record(row)
            return
        self.preferences.add(row)
        if row.better is not None:
            self.add_record(row.better)

    def add_record(self, record: Record) -> None:
        """Take in an ordinary row."""
        text = _text(record)
        answers = "\n".join(message.content for message in record.messages if message.role == "assistant")
        self._index.add(text)
        self._origins.append(record.origin)
        self._lengths.add(self._count_tokens(record) if self._count_tokens else len(text))
        self._categories[record.category] += 1
        self._languages[language(answers)] += 1
        for kind in _kinds(record, answers):
            self._found[kind].add(record.origin)

    def finished(self, validation: Sequence[Record] = ()) -> Audit:
        """What was found. validation: held-out rows, of which none should be among the rows."""
        found, lengths = self._found, self._lengths
        with closing(self._index.exact(len(self))) as groups:
            duplicates = self._later(groups)
            self._index.join_near(groups)
            near_duplicates = self._later(groups)
        return Audit(
            rows=len(self),
            categories=dict(self._categories),
            languages=dict(self._languages.most_common()),
            json_shaped=found["json"].finding,
            contamination={rule: found[rule].finding for rule in CONTAMINATION if rule in found},
            personal={kind: found[_PERSONAL + kind].finding for kind in PATTERNS if _PERSONAL + kind in found},
            duplicates=duplicates,
            near_duplicates=near_duplicates,
            leaked=self._leaked(validation),
            control_names=found[_NAMES].finding,
            length_unit="tokens" if self._count_tokens else "characters",
            lengths=dict(sorted(lengths.histogram.items())),
            longest=lengths.longest,
            real_token_share=_utilisation(lengths.drawn) if self._count_tokens and lengths.rows else None,
            preferences=self.preferences.finished() if len(self.preferences) else None,
        )

    def _later(self, groups: RowGroups) -> Finding:
        return self._finding(row for row, _ in groups.later())

    def _leaked(self, validation: Sequence[Record]) -> Finding:
        """Rows whose text is (nearly) a validation row's."""
        if not validation:
            return Finding(0, ())
        self._index.extend(map(_text, validation))
        with closing(self._index.exact()) as groups:
            self._index.join_near(groups)
            held_out = {groups.root(row) for row in range(len(self), groups.rows)}
            later = (row for row, first in groups.later() if first in held_out)
            return self._finding(row for row in merge(sorted(held_out), later) if row < len(self))

    def _finding(self, places: Iterable[int]) -> Finding:
        tally = _Tally()
        for place in places:
            tally.add(self._origins[place] if tally.rows < _EXAMPLES else "")
        return tally.finding


def language(text: str) -> str:
    """The script of more than half of the letters (hangul, latin, han ...), "mixed", or "none" without letters."""
    letters = {name: count for name, count in script_counts(text).items() if name in _LETTERS}
    total = sum(letters.values())
    if not total:
        return "none"
    name, most = max(letters.items(), key=lambda item: item[1])
    return name if most > _MOSTLY * total else "mixed"


def _kinds(record: Record, answers: str) -> set[str]:
    """json, the filter's rules that answers break, and personal:KIND for the whole row."""
    kinds = set(clean(answers).removed) & set(CONTAMINATION)
    if any(json_shaped(message.content) for message in record.messages if message.role == "assistant"):
        kinds.add("json")
    if USUAL_NAME.search(_text(record)):
        kinds.add(_NAMES)
    return kinds | {_PERSONAL + kind for kind, _ in personal_hints(_text(record))}


def _text(record: Record) -> str:
    return "\n".join(message.content for message in record.messages if message.role != "system")


def _utilisation(lengths: Sequence[int]) -> float:
    widths = choose_widths(lengths)
    steps = plan_steps(lengths, _ROWS_PER_STEP, _ROWS_PER_STEP * widths[-1], seed=0, widths=widths)
    return real_token_share(lengths, steps, widths)
