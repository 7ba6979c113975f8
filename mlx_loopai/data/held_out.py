"""Holds rows out of training, so that what was learnt can be measured on them."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Sequence

import numpy as np

from mlx_loopai.data.chosen_rows import ChosenRows, digests_of, judged_in
from mlx_loopai.data.row_identity import prompt_digest, rows_digest
from mlx_loopai.data.tokens import TokenRow

MOST_HELD_OUT = 64


def held_apart(
    sources: dict[str, Sequence[TokenRow]], share: float
) -> tuple[dict[str, Sequence[TokenRow]], list[TokenRow]]:
    """(training rows, held-out ones that no training row repeats); every source keeps at least one row.

    The choice depends on the rows' contents alone: the same rows are held out whatever their order in the file.
    """
    kept: dict[str, Sequence[TokenRow]] = {}
    held_out: list[TokenRow] = []
    total = sum(map(len, sources.values()))
    for name, rows in sources.items():
        wanted = min(round(share * len(rows)), MOST_HELD_OUT * len(rows) // max(1, total))
        chosen = _chosen(rows, wanted)
        held = np.fromiter((group in chosen for group in _groups(rows)), np.bool_, len(rows))
        kept[name] = ChosenRows([rows], np.arange(len(rows), dtype=np.int32)[~held])
        found = [rows[place] for place in np.flatnonzero(held).tolist()]
        held_out += list({rows_digest([row]): row for row in found}.values())
    return kept, held_out


def _chosen(rows: Sequence[TokenRow], wanted: int) -> set[bytes]:
    """Whole groups, in the order of their names, with about `wanted` different rows; one group is always left."""
    # Every group has at least one row, so only the first groups by name can be needed.
    names: list[bytes] = []
    groups: dict[bytes, set[str]] = {}
    for place, name in enumerate(_groups(rows)):
        if name not in groups:
            if len(names) > wanted and name > names[-1]:
                continue
            insort(names, name)
            groups[name] = set()
            if len(names) > wanted + 1:
                del groups[names.pop()]
        if name in groups:
            groups[name].add(rows_digest([rows[place]]))
    chosen: set[bytes] = set()
    count = 0
    for name in names[:-1]:
        if count >= wanted:
            break
        chosen.add(name)
        count += len(groups[name])
    return chosen


def _groups(rows: Sequence[TokenRow]) -> Iterable[bytes]:
    """The name of each row's group; equal rows, and judged answers to one prompt, are in one group."""
    judged = judged_in(rows)
    for place, digest in enumerate(digests_of(rows)):
        yield prompt_digest(rows[place]) if judged[place] else digest
