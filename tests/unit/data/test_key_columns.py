from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_loopai.data import key_columns
from mlx_loopai.data.key_columns import KeyColumns

# Few different keys, with bits of all heights.
KEYS = st.integers(0, 30).map(lambda number: number * 0x0123456789ABCDEF % (1 << 64))


@pytest.fixture(autouse=True, scope="module")
def _few_at_once() -> Iterator[None]:
    """Blocks and parts of a few keys, so that small inputs have many of each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(key_columns, "_KEYS_AT_ONCE", 7)
        patch.setattr(key_columns, "_SORTED_AT_ONCE", 10)
        yield


def _equal(columns: Sequence[Sequence[int]], column: int, rows: int) -> list[tuple[int, int]]:
    with closing(KeyColumns(len(columns))) as keys:
        for row in zip(*columns, strict=True):
            keys.append(np.array([row], np.uint64))
        return sorted(
            pair
            for firsts, others in keys.equal(column, rows)
            for pair in zip(firsts.tolist(), others.tolist(), strict=True)
        )


@given(st.lists(KEYS, max_size=80), st.data())
def test_each_row_is_paired_with_the_first_of_its_key(found: list[int], data: st.DataObject) -> None:
    rows = data.draw(st.integers(0, len(found)))
    first: dict[int, int] = {}
    want = [(first[key], place) for place, key in enumerate(found[:rows]) if first.setdefault(key, place) != place]
    different = [place << 32 for place in range(len(found))]
    assert _equal([different, found], 1, rows) == sorted(want)
    assert _equal([different, found], 0, rows) == []
