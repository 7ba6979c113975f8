"""What is in a data set before anything is trained on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from mlx_loopai.data.batches import choose_widths, plan_steps, real_token_share
from mlx_loopai.data.duplicates import exact_groups, near_groups, normalised
from mlx_loopai.data.judged_audit import PreferenceAudit, audit_judged
from mlx_loopai.data.pairs import Judged
from mlx_loopai.data.personal import PATTERNS, personal_hints
from mlx_loopai.data.records import Record
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
_MOSTLY = 0.5


@dataclass(frozen=True)
class Finding:
    """A kind of thing that was found: in how many rows, and the origins (file:line) of the first of them."""

    rows: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Audit:
    """What `audit` found.

    languages: script of most letters of the answers -> rows. json_shaped: rows with an answer that begins as JSON.
    contamination: rule of the text filter -> rows it would change. duplicates, near_duplicates: rows beyond the first
    of each group (near ones include the exact). leaked: training rows whose text is (nearly) a validation row's.
    control_names: rows whose text holds the name of a control token, such as `<|im_end|>`.
    lengths: upper bound (a power of two, in `length_unit`) -> rows. real_token_share: share of computed tokens that
    are not padding when batches are made as training makes them; None without a tokenizer. preferences: what the pairs
    and labelled answers are, of which the chosen and the good ones are among the rows; None where there are none.
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
                tr("{rows} training rows stand in the validation rows too: remove them there", rows=self.leaked.rows)
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
    judged: Sequence[Judged] = (),
) -> Audit:
    """Look at every row once. Without `count_tokens` lengths are in characters.

    judged: the pairs and labelled answers that `records` holds the chosen and good answers of.
    """
    texts = [_text(record) for record in records]
    lengths = [count_tokens(record) if count_tokens else len(text) for record, text in zip(records, texts, strict=True)]
    languages: Counter[str] = Counter()
    found: dict[str, list[Record]] = {}
    for done, record in enumerate(records, start=1):
        answers = "\n".join(message.content for message in record.messages if message.role == "assistant")
        languages[language(answers)] += 1
        for kind in _kinds(record, answers):
            found.setdefault(kind, []).append(record)
        on_progress(done)
    return Audit(
        rows=len(records),
        categories=dict(Counter(record.category for record in records)),
        languages=dict(languages.most_common()),
        json_shaped=_finding(found.get("json", ())),
        contamination={rule: _finding(found[rule]) for rule in CONTAMINATION if rule in found},
        personal={kind: _finding(found[_PERSONAL + kind]) for kind in PATTERNS if _PERSONAL + kind in found},
        duplicates=_repeats(records, exact_groups(texts)),
        near_duplicates=_repeats(records, near_groups(texts)),
        leaked=_leaked(records, texts, [_text(record) for record in validation]),
        control_names=_finding(found.get(_NAMES, ())),
        length_unit="tokens" if count_tokens else "characters",
        lengths=_histogram(lengths),
        longest=max(lengths, default=0),
        real_token_share=_utilisation(lengths) if count_tokens and lengths else None,
        preferences=audit_judged(judged) if judged else None,
    )


def language(text: str) -> str:
    """The script of more than half of the letters (hangul, latin, han ...), "mixed", or "none" without letters."""
    letters = {name: count for name, count in script_counts(text).items() if Script(name).is_letter}
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


def _finding(rows: Iterable[Record]) -> Finding:
    origins = [record.origin for record in rows]
    return Finding(len(origins), tuple(origins[:_EXAMPLES]))


def _repeats(records: Sequence[Record], groups: Sequence[Sequence[int]]) -> Finding:
    return _finding(records[index] for group in groups for index in group[1:])


def _leaked(records: Sequence[Record], texts: Sequence[str], validation: Sequence[str]) -> Finding:
    if not validation:
        return Finding(0, ())
    held_out = {normalised(text) for text in validation}
    same = {index for index, text in enumerate(texts) if normalised(text) in held_out}
    for group in near_groups([*texts, *validation]):
        if group[-1] >= len(texts):
            same |= {index for index in group if index < len(texts)}
    return _finding(records[index] for index in sorted(same))


def _histogram(lengths: Sequence[int]) -> dict[int, int]:
    bounds = Counter(1 << max(0, length - 1).bit_length() for length in lengths)
    return dict(sorted(bounds.items()))


def _utilisation(lengths: Sequence[int]) -> float:
    widths = choose_widths(lengths)
    steps = plan_steps(lengths, _ROWS_PER_STEP, _ROWS_PER_STEP * widths[-1], seed=0, widths=widths)
    return real_token_share(lengths, steps, widths)
