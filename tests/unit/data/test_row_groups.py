from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_loopai.data import row_groups
from mlx_loopai.data.row_groups import RowGroups

ROWS = 40
PAIRS = st.lists(st.tuples(st.integers(0, ROWS - 1), st.integers(0, ROWS - 1)), max_size=60)


@pytest.fixture(autouse=True, scope="module")
def _few_at_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_groups, "_AT_ONCE", 8)
        yield


@given(PAIRS)
def test_joined_rows_are_one_group(pairs: list[tuple[int, int]]) -> None:
    want = [{row} for row in range(ROWS)]
    with closing(RowGroups(ROWS)) as groups:
        for one, other in pairs:
            groups.join(one, other)
            if want[one] is not want[other]:
                want[one] |= want[other]
                for row in want[other]:
                    want[row] = want[one]
        assert [groups.root(row) for row in range(ROWS)] == [min(group) for group in want]
        assert list(groups.later()) == [(row, min(want[row])) for row in range(ROWS) if min(want[row]) != row]
        assert groups.lists() == [sorted(group) for row, group in enumerate(want) if min(group) == row != max(group)]


@given(PAIRS)
def test_only_rows_of_different_groups_are_apart(pairs: list[tuple[int, int]]) -> None:
    ones, others = np.array(pairs, np.int64).reshape(-1, 2).T
    with closing(RowGroups(ROWS)) as groups:
        joined = []
        for one, other in groups.apart(ones, others):
            assert groups.root(one) != groups.root(other)
            groups.join(one, other)
            joined.append((one, other))
        assert all(groups.root(one) == groups.root(other) for one, other in pairs)
        assert list(groups.apart(ones, others)) == []
        assert len(joined) == len(list(groups.later()))
