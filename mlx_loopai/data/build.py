"""A balanced data set from named sources: a set number of rows of each category, held-out rows, and three phases."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlx_loopai.data.duplicates import exact_groups, normalised
from mlx_loopai.data.nested import natural_record
from mlx_loopai.data.records import Record
from mlx_loopai.errors import InputError
from mlx_loopai.language import tr

DEFAULT_COUNTS = {"dialogue": 15_000, "knowledge": 8_000, "creative": 5_000, "domain": 3_000}
# Cumulative: a later phase keeps some of what the earlier ones taught.
_PHASES = (
    ("dialogue and knowledge", {"dialogue": 1.0, "knowledge": 1.0}),
    ("and creative", {"dialogue": 0.1, "knowledge": 0.1, "creative": 1.0}),
    ("and domain", {"dialogue": 0.1, "knowledge": 0.1, "creative": 0.2, "domain": 1.0}),
)


@dataclass(frozen=True)
class Share:
    """Row counts of one category: in the sources, `unique` without repeats and held-out rows, `drawn` into the set."""

    found: int
    unique: int
    drawn: int

    @property
    def passes(self) -> float:
        """How often a row occurs in the set on average: below 1 some rows were left out, above 1 some repeat."""
        return self.drawn / self.unique


@dataclass(frozen=True)
class DataSet:
    """A built set: `rows` by category and `validation`, which share no text after normalisation.

    shares: by category. reshaped: how many JSON answers were turned into natural text.
    """

    rows: dict[str, list[Record]]
    validation: list[Record]
    shares: dict[str, Share]
    reshaped: int


def build(records: Iterable[Record], counts: Mapping[str, int], validation_share: float, seed: int) -> DataSet:
    """Draw `counts[category]` rows of every category; the same records, counts and seed give the same set.

    Rows that repeat another are taken once. `validation_share` of the unique rows of each category is held out, chosen
    by hash, so that a new source never moves a row from one side to the other. A category with too few rows is cycled
    through: no row comes a second time before every row came once. Answers in nested JSON become natural text.

    Raises: InputError when a category with a count has no row, or a row's category has no count.
    """
    by_category: dict[str, list[Record]] = {name: [] for name in counts}
    reshaped = 0
    for record in records:
        if record.category not in by_category:
            raise InputError(
                tr(
                    "{origin}: no count for the category {category}; add `count` {category}=N",
                    origin=record.origin,
                    category=record.category,
                )
            )
        natural, changed = natural_record(record)
        by_category[record.category].append(natural)
        reshaped += changed
    missing = [name for name, found in by_category.items() if counts[name] and not found]
    if missing:
        raise InputError(
            tr("no rows of {missing}; name a `source` for each, or set its `count` to 0", missing=", ".join(missing))
        )
    rows, validation, shares = {}, [], {}
    for name, found in by_category.items():
        unique = _without_repeats(found)
        held_out = [record for record in unique if _fraction(record) < validation_share]
        kept = [record for record in unique if _fraction(record) >= validation_share]
        if counts[name] and not kept:
            raise InputError(
                tr(
                    "{name}: all {n_unique} rows were held out; lower `validation_share` or add rows",
                    name=name,
                    n_unique=len(unique),
                )
            )
        rows[name] = _drawn(kept, counts[name], random.Random(f"{seed}:{name}"))
        validation += held_out if counts[name] else []
        shares[name] = Share(len(found), len(kept), len(rows[name]))
    return DataSet(rows, validation, shares, reshaped)


def recipe(files: Mapping[str, str], validation: str, replay_share: float) -> dict[str, Any]:
    """The training recipe for a built set: its files as sources, three cumulative phases, rehearsal by `replay_share`.

    files: category -> path, of the categories that have rows. A phase that none of them belongs to is left out.
    """
    phases: list[dict[str, Any]] = []
    for name, passes in _PHASES:
        mixture = {category: weight for category, weight in passes.items() if category in files}
        if mixture and (not phases or mixture.keys() > phases[-1]["mixture"].keys()):
            phases.append({"name": name, "mixture": mixture})
    return {
        "sources": {category: {"path": path, "category": category} for category, path in files.items()},
        **({"validation": validation} if validation else {}),
        "phases": phases,
        "replay": {"source": "self", "share": replay_share} if replay_share else {"source": "none"},
    }


def to_line(record: Record) -> str:
    """The record as one line of chat JSONL."""
    return json.dumps(record.as_row(), ensure_ascii=False) + "\n"


def _content(record: Record) -> str:
    return "\n".join(message.content for message in record.messages)


def _without_repeats(records: Sequence[Record]) -> list[Record]:
    repeats = {index for group in exact_groups([_content(record) for record in records]) for index in group[1:]}
    return [record for index, record in enumerate(records) if index not in repeats]


def _fraction(record: Record) -> float:
    """A number in [0, 1) that depends on the row's text alone."""
    digest = hashlib.sha256(normalised(_content(record)).encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:8]) / 2**64


def _drawn(records: Sequence[Record], count: int, generator: random.Random) -> list[Record]:
    found: list[Record] = []
    while len(found) < count:
        again = list(records)
        generator.shuffle(again)
        found += again[: count - len(found)]
    return found
