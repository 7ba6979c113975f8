"""Steps and padding: every row once, exact steps, few widths, little padding, still random."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_loopai.data.batches import (
    batches_by_length,
    choose_widths,
    collate,
    padded_width,
    plan_mixed_steps,
    plan_steps,
    real_token_share,
    share_in_file_order,
)
from mlx_loopai.data.tokens import TokenRow
from mlx_loopai.errors import InputError
from mlx_loopai.models.pass_sizes import FEWEST_MICRO_TOKENS

LENGTHS = st.lists(st.integers(1, 3000), min_size=1, max_size=120)


def row_of(*ids: int) -> TokenRow:
    return TokenRow(np.array(ids, dtype=np.int32), np.arange(len(ids)) > 0, "rows.jsonl:3", "domain")


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 20), st.integers(1, 5000), st.integers(0, 2**31), st.integers(1, 24))
def test_every_row_once_in_exact_steps_within_the_token_budget(lengths, rows_per_step, micro_tokens, seed, max_widths):
    steps = plan_steps(lengths, rows_per_step, micro_tokens, seed, max_widths)
    widths = choose_widths(lengths, max_widths)
    assert sorted(index for step in steps for batch in step for index in batch) == list(range(len(lengths)))
    sizes = [sum(map(len, step)) for step in steps]
    assert all(size == rows_per_step for size in sizes[:-1])
    assert sizes[-1] == len(lengths) % rows_per_step or sizes[-1] == rows_per_step
    assert len(widths) <= max_widths
    for batch in (batch for step in steps for batch in step):
        of_batch = {padded_width(lengths[index], widths) for index in batch}
        assert len(of_batch) == 1
        assert len(batch) * of_batch.pop() <= micro_tokens or len(batch) == 1


def least_padding(lengths: list[int], max_widths: int) -> int:
    """Reference: tries every choice of widths."""
    values = sorted(set(lengths))
    choices = (
        (*chosen, values[-1])
        for count in range(min(max_widths, len(values)))
        for chosen in combinations(values[:-1], count)
    )
    return min(sum(min(width for width in widths if width >= length) for length in lengths) for widths in choices)


@settings(deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=12), st.integers(1, 4))
def test_no_choice_of_widths_pads_less(lengths, max_widths):
    widths = choose_widths(lengths, max_widths)
    padded = sum(padded_width(length, widths) for length in lengths)
    enough = sum(lengths) / 0.98
    assert padded == least_padding(lengths, len(widths))
    assert padded <= enough or len(widths) == min(max_widths, len(set(lengths)))


def test_widths_end_with_the_longest_row_and_are_few_when_few_suffice():
    assert choose_widths([7] * 50) == (7,)
    assert choose_widths([100, 101, 99, 3000]) == (101, 3000)
    assert choose_widths([5, 5000])[-1] == 5000


def test_the_plan_is_seeded():
    lengths = np.random.default_rng(0).integers(5, 90, 300).tolist()
    first, again, other = ([*plan_steps(lengths, 8, 512, seed)] for seed in (4, 4, 5))
    assert first == again
    assert first != other


def test_rows_of_similar_length_meet_other_rows_in_another_epoch():
    lengths = np.random.default_rng(1).integers(20, 60, 2000).tolist()
    pairs = []
    for seed in (0, 1):
        groups = [[index for batch in step for index in batch] for step in plan_steps(lengths, 8, 4096, seed)]
        pairs.append({pair for group in groups for pair in combinations(sorted(group), 2)})
        spreads = [max(lengths[i] for i in group) - min(lengths[i] for i in group) for group in groups]
        assert np.mean(spreads) < 6
        order = [np.mean([lengths[i] for i in group]) for group in groups]
        assert abs(np.corrcoef(order, np.arange(len(order)))[0, 1]) < 0.3
    assert len(pairs[0] & pairs[1]) < 0.1 * len(pairs[0])


def test_the_rows_of_the_short_step_differ_between_seeds():
    lengths = list(range(10, 113))
    last_steps = [plan_steps(lengths, 8, 4096, seed)[-1] for seed in range(8)]
    shorts = {tuple(sorted(index for batch in step for index in batch)) for step in last_steps}
    assert len(shorts) > 3


def test_given_widths_are_kept_over_epochs():
    steps = plan_steps([5, 9, 30], 1, 64, 0, widths=(10, 40))
    assert real_token_share([5, 9, 30], steps, (10, 40)) == pytest.approx(44 / 60)


def skewed_lengths() -> list[int]:
    """4,000 chat rows, 500 stories and a tail of 40 long ones."""
    generator = np.random.default_rng(0)
    parts = (
        generator.integers(20, 80, 4000),
        generator.normal(900, 150, 500).clip(300, 2048),
        generator.integers(1500, 2048, 40),
    )
    return np.concatenate(parts).astype(int).tolist()


def lognormal_lengths() -> list[int]:
    """Median 90, the longest five times that."""
    return np.random.default_rng(0).lognormal(4.5, 0.5, 5000).clip(4, 2048).astype(int).tolist()


@pytest.mark.parametrize("lengths", [skewed_lengths(), lognormal_lengths()], ids=["skewed", "lognormal"])
def test_real_token_share_of_skewed_lengths(lengths):
    widths = choose_widths(lengths)
    assert len(widths) <= 24
    assert real_token_share(lengths, plan_steps(lengths, 8, 2048, 0), widths) >= 0.95


@given(st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=9), min_size=1, max_size=6), st.integers(0, 4))
def test_collate_pads_right_and_never_supervises_padding(rows, extra):
    width = max(map(len, rows)) + extra
    batch = collate([row_of(*ids) for ids in rows], width)
    assert batch.ids.dtype == np.int32
    assert batch.ids.shape == batch.supervised.shape == (len(rows), width)
    for index, ids in enumerate(rows):
        assert batch.ids[index].tolist() == ids + [0] * (width - len(ids))
        assert batch.supervised[index].tolist() == [False] + [True] * (len(ids) - 1) + [False] * (width - len(ids))


def test_what_cannot_be_planned():
    with pytest.raises(InputError, match="no row to train on"):
        plan_steps([], 8, 100, 0)
    with pytest.raises(InputError, match="row 1 has no tokens"):
        plan_steps([3, 0], 8, 100, 0)
    with pytest.raises(InputError, match="rows_per_step: 0"):
        plan_steps([3], 0, 100, 0)
    with pytest.raises(InputError, match="micro_tokens: 0"):
        plan_steps([3], 1, 0, 0)
    with pytest.raises(InputError, match="widths: 0 is too few"):
        choose_widths([3], 0)
    with pytest.raises(InputError, match="11 tokens is wider than the widest, 10"):
        plan_steps([11], 1, 100, 0, widths=(10,))
    with pytest.raises(InputError, match=r"rows.jsonl:3: 3 tokens do not fit a width of 2"):
        collate([row_of(1, 2, 3)], 2)


@settings(deadline=None)
@given(LENGTHS, st.data(), st.integers(1, 20), st.integers(1, 5000), st.integers(0, 2**31))
def test_mixed_steps_hold_every_row_once_and_rehearsal_in_its_share(lengths, data, rows_per_step, micro_tokens, seed):
    rehearsal = data.draw(st.lists(st.booleans(), min_size=len(lengths), max_size=len(lengths)))
    widths = choose_widths(lengths)
    steps = plan_mixed_steps(lengths, rehearsal, rows_per_step, micro_tokens, seed, widths)
    assert sorted(index for step in steps for batch in step for index in batch) == list(range(len(lengths)))
    sizes = [sum(map(len, step)) for step in steps]
    assert all(size == rows_per_step for size in sizes[:-1])
    share = sum(rehearsal) / len(lengths)
    for step, size in zip(steps, sizes, strict=True):
        assert abs(sum(rehearsal[index] for batch in step for index in batch) - share * size) < 1 + 1e-9
        for batch in step:
            assert len({rehearsal[index] for index in batch}) == 1
            assert len({padded_width(lengths[index], widths) for index in batch}) == 1


@settings(deadline=None)
@given(LENGTHS, st.data(), st.integers(1, 20), st.integers(1, 5000), st.integers(0, 2**31))
def test_rehearsal_needs_no_larger_micro_batches_than_training(lengths, data, rows_per_step, micro_tokens, seed):
    rehearsal = data.draw(st.lists(st.booleans(), min_size=len(lengths), max_size=len(lengths)))
    widths = choose_widths(lengths)
    steps = plan_mixed_steps(lengths, rehearsal, rows_per_step, micro_tokens, seed, widths)
    sizes = {True: [0], False: [0]}
    for batch in (batch for step in steps for batch in step):
        if len(batch) > 1 or not rehearsal[batch[0]]:
            sizes[rehearsal[batch[0]]].append(len(batch) * padded_width(lengths[batch[0]], widths))
    if not all(rehearsal):
        assert max(sizes[True]) <= max(*sizes[False], FEWEST_MICRO_TOKENS)


def test_the_share_of_batches_in_file_order_by_hand() -> None:
    # Two batches of two: 1 + 32 and 1 + 64 wide; the fifth row falls off.
    assert share_in_file_order([10, 32, 33, 5, 60], 2) == pytest.approx((10 + 32 + 33 + 5) / (2 * 33 + 2 * 65))
    assert share_in_file_order([7], 4) == pytest.approx(7 / 33)


@settings(deadline=None)
@given(st.lists(st.integers(1, 60), max_size=40), st.integers(1, 200), st.none() | st.integers(1, 8))
def test_batches_by_length_hold_every_row_once_within_both_limits(
    lengths: list[int], micro_tokens: int, most_rows: int | None
) -> None:
    rows = [row_of(*range(length)) for length in lengths]
    found = list(batches_by_length(rows, micro_tokens, most_rows))
    assert sorted(index for group, _ in found for index in group) == list(range(len(rows)))
    for group, batch in found:
        assert batch.ids.shape == (len(group), max(lengths[index] for index in group))
        assert len(group) == 1 or batch.ids.size <= micro_tokens
        assert most_rows is None or len(group) <= most_rows
