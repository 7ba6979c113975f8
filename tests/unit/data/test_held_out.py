"""A share of the rows is held out: the same ones in any order, no row on both sides."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mlx_loopai.data.held_out import MOST_HELD_OUT, held_apart
from mlx_loopai.data.row_identity import row_digest
from mlx_loopai.data.rows import Rows
from mlx_loopai.data.tokens import TokenRow
from tests.unit.conftest import row


def divided(sources: dict[str, list[TokenRow]], share: float) -> Rows:
    return Rows(*held_apart(dict(sources), share))


@given(st.integers(1, 40), st.integers(0, 3), st.floats(0.01, 0.5), st.integers(0, 9))
def test_both_sides_are_apart_and_nothing_is_lost(n: int, repeats: int, share: float, seed: int) -> None:
    rows = [row(6 + number % 5, seed=seed + number) for number in range(n)]
    rows += rows[: repeats * n // 4]
    found = divided({"a": rows, "b": [row(9, seed=777)]}, share)
    kept = {row_digest(one) for one in found.sources["a"]}
    held = {row_digest(one) for one in found.validation}
    assert kept
    assert found.sources["b"]
    assert not kept & held
    assert kept | held >= {row_digest(one) for one in rows}
    assert len(found.validation) <= MOST_HELD_OUT
    assert {row_digest(one) for one in divided({"a": rows[::-1]}, share).validation} == {
        row_digest(one) for one in divided({"a": rows}, share).validation
    }


def test_a_large_file_gives_no_more_than_needed() -> None:
    rows = [row(5 + number % 7, seed=number) for number in range(400)]
    assert len(divided({"a": rows, "b": rows[:100]}, 0.5).validation) <= MOST_HELD_OUT
