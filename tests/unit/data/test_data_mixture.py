"""Drawing rows: weights are passes, replay is a share, everything is seeded."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_loopai.data.mixture import draw, with_replay
from mlx_loopai.data.tokens import TokenRow
from mlx_loopai.errors import InputError


def rows_of(name: str, count: int) -> list[TokenRow]:
    ids, supervised = np.zeros(2, dtype=np.int32), np.array([False, True])
    return [TokenRow(ids, supervised, f"{name}:{line}", "domain") for line in range(count)]


def counts(rows: list[TokenRow]) -> Counter[str]:
    return Counter(row.origin for row in rows)


@given(st.integers(1, 40), st.floats(0, 4), st.integers(0, 2**31))
def test_a_weight_counts_passes(n_rows, weight, seed):
    sources = {"a": rows_of("a", n_rows), "b": rows_of("b", 3)}
    seen = counts(draw(sources, {"a": weight, "b": 1}, seed))
    of_a = [seen[row.origin] for row in sources["a"]]
    assert sum(of_a) == round(weight * n_rows)
    assert max(of_a) - min(of_a) <= 1
    assert all(seen[row.origin] == 1 for row in sources["b"])


def test_the_same_seed_draws_the_same_and_another_does_not():
    sources = {"a": rows_of("a", 50)}
    first, again, other = (draw(sources, {"a": 1.5}, seed) for seed in (1, 1, 2))
    assert [row.origin for row in first] == [row.origin for row in again]
    assert counts(first) != counts(other)


def test_a_source_is_drawn_independently_of_the_others_and_of_their_order():
    sources = {"a": rows_of("a", 20), "b": rows_of("b", 20)}
    alone = counts(draw(sources, {"a": 0.5}, 3))
    both = draw(sources, {"a": 0.5, "b": 0.5}, 3)
    turned = draw(dict(reversed(sources.items())), {"b": 0.5, "a": 0.5}, 3)
    assert {name: count for name, count in counts(both).items() if name.startswith("a")} == alone
    assert [row.origin for row in both] == [row.origin for row in turned]


def test_sources_are_interleaved():
    drawn = draw({"a": rows_of("a", 100), "b": rows_of("b", 100)}, {"a": 1, "b": 1}, 0)
    halves = [sum(row.origin.startswith("a") for row in half) for half in (drawn[:100], drawn[100:])]
    assert min(halves) > 30


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        ({"c": 1}, "unknown source c; defined: a, empty"),
        ({"a": -1}, "the weight -1 of a"),
        ({"a": float("nan")}, "the weight nan of a"),
        ({"empty": 1}, "the source empty has no rows"),
        ({"a": 0}, "draw no row at all"),
        ({}, "draw no row at all"),
    ],
)
def test_weights_that_make_no_sense(weights, reason):
    with pytest.raises(InputError, match=reason):
        draw({"a": rows_of("a", 2), "empty": []}, weights, 0)


@given(st.integers(1, 60), st.integers(1, 20), st.floats(0, 0.9), st.integers(0, 2**31))
def test_replay_is_a_share_of_the_result_and_cycles_evenly(n_rows, n_replay, share, seed):
    rows, replay = rows_of("a", n_rows), rows_of("r", n_replay)
    mixed = counts(with_replay(rows, replay, share, seed))
    replayed = [mixed[row.origin] for row in replay]
    assert all(mixed[row.origin] == 1 for row in rows)
    assert sum(replayed) == round(n_rows * share / (1 - share))
    assert max(replayed) - min(replayed) <= 1


def test_ten_percent_replay():
    mixed = with_replay(rows_of("a", 90), rows_of("r", 4), 0.1, 0)
    assert sum(row.origin.startswith("r") for row in mixed) == 10
    assert [row.origin for row in mixed] == [
        row.origin for row in with_replay(rows_of("a", 90), rows_of("r", 4), 0.1, 0)
    ]


def test_replay_shares_that_make_no_sense():
    with pytest.raises(InputError, match=r"replay.share: 1 "):
        with_replay(rows_of("a", 2), rows_of("r", 2), 1, 0)
    with pytest.raises(InputError, match="without rehearsal rows"):
        with_replay(rows_of("a", 20), [], 0.2, 0)
    assert len(with_replay(rows_of("a", 20), [], 0, 0)) == 20
