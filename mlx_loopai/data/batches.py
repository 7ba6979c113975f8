"""Groups rows into optimizer steps and micro-batches, and pads them.

Rows are put into bins of equal padded width and shuffled inside them. So the rows of a step have similar lengths, and
any two rows of a bin may meet. Padding then depends on the widths alone, which are chosen to waste least.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from mlx_loopai.data.tokens import REHEARSAL, TokenRow
from mlx_loopai.errors import InputError
from mlx_loopai.language import tr
from mlx_loopai.models.micro_batch import CANDIDATES, MicroBatch, PictureRows
from mlx_loopai.models.pass_sizes import FEWEST_MICRO_TOKENS

# Every width must be compiled, so there are only as many as it takes to reach this share of real tokens.
_ENOUGH_SHARE = 0.98
# More distinct lengths than this are rounded up to a grid: time and memory of the search grow with their square.
_GRID = 1024

_Ints = npt.NDArray[np.int64]
_Rows = npt.NDArray[np.int32]
Lengths = Sequence[int] | npt.NDArray[np.integer[Any]]


def choose_widths(lengths: Lengths, max_widths: int = 24) -> tuple[int, ...]:
    """At most `max_widths` padded widths in tokens, ascending, the last one at least the longest row.

    Of all choices of k widths the one with the least padding is taken (dynamic programming over the lengths), for the
    smallest k that makes 98 % of the padded tokens real, or for `max_widths`.

    Raises: InputError without rows, for a row without tokens, or for less than one width.
    """
    sizes = _checked(lengths)
    if max_widths < 1:
        raise InputError(tr("widths: {max_widths} is too few; give at least 1", max_widths=max_widths))
    step = -(-int(sizes.max()) // _GRID) if len(np.unique(sizes)) > _GRID else 1
    grid, counts = np.unique(-(-sizes // step) * step, return_counts=True)
    widths = _least_padding(grid.astype(np.int64), counts.astype(np.int64), max_widths, int(sizes.sum()))
    return (*widths[:-1], int(sizes.max()))  # the grid may reach a little past the longest row


def _least_padding(grid: _Ints, counts: _Ints, max_widths: int, real_tokens: int) -> tuple[int, ...]:
    """The widths, by dynamic programming.

    `cost[j]`: fewest padded tokens that hold all rows up to `grid[j - 1]`; `choices` remembers where bins begin.
    """
    rows = np.concatenate([[0], np.cumsum(counts)])
    size = len(grid)
    cost = rows * grid[-1] * 2 + 1  # worse than any choice, and no overflow
    cost[0] = 0
    choices: list[_Ints] = []
    while len(choices) < min(max_widths, size):
        # bins[j, i]: the last bin holds grid[i:j + 1], all padded to grid[j].
        bins = cost[None, :size] + grid[:, None] * (rows[1:, None] - rows[None, :size])
        bins[np.triu_indices(size, k=1)] = np.iinfo(np.int64).max
        begin = bins.argmin(axis=1)
        cost = np.concatenate([[0], bins[np.arange(size), begin]])
        choices.append(begin)
        if real_tokens >= _ENOUGH_SHARE * cost[-1]:
            break
    widths: list[int] = []
    end = size
    for begin in reversed(choices):
        if end > 0:
            widths.append(int(grid[end - 1]))
            end = int(begin[end - 1])
    return tuple(reversed(widths))


def padded_width(length: int, widths: Sequence[int]) -> int:
    """The smallest of the ascending `widths` that holds `length` tokens. Raises: InputError when none does."""
    index = int(np.searchsorted(np.asarray(widths), length))
    if index == len(widths):
        raise InputError(
            tr(
                "widths: a row of {length} tokens is wider than the widest, {widths}; plan all rows at once",
                length=length,
                widths=widths[-1],
            )
        )
    return int(widths[index])


@dataclass(frozen=True)
class _Part:
    """A part of each of S steps: `counts[s]` of `rows` from `starts[s]` on.

    micro_tokens: the most padded tokens of a micro-batch of several rows.
    """

    rows: _Rows
    starts: _Ints  # [S]
    counts: _Ints  # [S]
    micro_tokens: int

    def of(self, step: int) -> _Rows:
        return self.rows[self.starts[step] : self.starts[step] + self.counts[step]]

    def largest(self, bins: npt.NDArray[np.unsignedinteger[Any]], widths: Sequence[int]) -> int:
        """Padded tokens of the largest micro-batch of any step; 0 without rows. A step's narrow rows come first."""
        if not len(self.rows):
            return 0
        own, begins = bins[self.rows], np.zeros(len(self.rows), np.bool_)
        begins[self.starts[self.counts > 0]] = True
        begins[1:] |= own[1:] != own[:-1]
        first = np.flatnonzero(begins)
        rows, sizes = np.diff(first, append=len(own)), np.asarray(widths)[own[first]]
        return int((np.minimum(rows, np.maximum(1, self.micro_tokens // sizes)) * sizes).max())


class Steps(Sequence[list[list[int]]]):
    """Steps of micro-batches of row indices, made into lists only when they are asked for: a run may have millions.

    parts: rows that share no micro-batch; bins: which of `widths` each row is padded to.
    """

    def __init__(self, parts: Sequence[_Part], bins: npt.NDArray[np.unsignedinteger[Any]], widths: _Rows) -> None:
        self._parts, self._bins, self._widths = parts, bins, widths

    def __len__(self) -> int:
        return len(self._parts[0].counts)

    @overload
    def __getitem__(self, place: int) -> list[list[int]]: ...

    @overload
    def __getitem__(self, place: slice) -> Steps: ...

    def __getitem__(self, place: int | slice) -> list[list[int]] | Steps:
        if isinstance(place, slice):
            parts = [replace(part, starts=part.starts[place], counts=part.counts[place]) for part in self._parts]
            return Steps(parts, self._bins, self._widths)
        at = range(len(self))[place]
        return [batch for part in self._parts for batch in self._micro_batches(part.of(at), part.micro_tokens)]

    def _micro_batches(self, rows: _Rows, micro_tokens: int) -> list[list[int]]:
        padded = self._widths[self._bins[rows]]
        batches: list[list[int]] = []
        for width in np.unique(padded):
            own = rows[padded == width].tolist()
            height = max(1, micro_tokens // int(width))
            batches += [own[start : start + height] for start in range(0, len(own), height)]
        return batches


def plan_steps(
    lengths: Lengths,
    rows_per_step: int,
    micro_tokens: int,
    seed: int,
    max_widths: int = 24,
    widths: Sequence[int] | None = None,
) -> Steps:
    """Steps of micro-batches of row indices, shuffled by seed; every row exactly once.

    Every step has exactly `rows_per_step` rows, except the last, which has the rest. The rows of a micro-batch pad to
    the same of `widths` (default: `choose_widths(lengths, max_widths)`) and to at most `micro_tokens` tokens together;
    a longer row is alone in its micro-batch.

    Raises: InputError without rows, for a row without tokens or wider than `widths`, or for counts below 1.
    """
    for name, value in (("rows_per_step", rows_per_step), ("micro_tokens", micro_tokens)):
        if value < 1:
            raise InputError(tr("{name}: {value} is too few; give at least 1", name=name, value=value))
    # Few arrays of few bytes a row, each dropped when it is used: they are the memory that grows with the rows.
    known = choose_widths(lengths, max_widths) if widths is None else tuple(widths)
    bins = _bins(lengths, known)
    generator = np.random.default_rng(seed)
    order = _by_bin(generator.permutation(np.arange(len(bins), dtype=np.int32)), bins, len(known))
    full, short = _cut(order, rows_per_step, generator)
    rows = np.concatenate([full[generator.permutation(len(full))].ravel(), short])
    starts = np.arange(0, len(rows), rows_per_step)
    whole = _Part(rows, starts, np.minimum(rows_per_step, len(rows) - starts), micro_tokens)
    return Steps([whole], bins, np.asarray(known, np.int32))


def plan_mixed_steps(
    lengths: Lengths,
    rehearsal: Sequence[bool] | npt.NDArray[np.bool_],
    rows_per_step: int,
    micro_tokens: int,
    seed: int,
    widths: Sequence[int],
) -> Steps:
    """As `plan_steps`, with an equal share of the rehearsal rows in every step (to the nearest row).

    `plan_steps` puts rows of similar length together, so that a step may have only short rehearsal rows and no training
    row. Here the training rows of a step have similar lengths, and so have its rehearsal rows; no micro-batch holds
    both kinds. One of several rehearsal rows has no more padded tokens than the largest of training rows, or
    `FEWEST_MICRO_TOKENS`: rehearsal then costs no memory of its own, however many tokens a language's prompts take.

    Raises: InputError as `plan_steps`.
    """
    bins, rehearses = _bins(lengths, widths), np.asarray(rehearsal, dtype=np.bool_)
    generator = np.random.default_rng(seed)
    ends = np.minimum(np.arange(-(-len(bins) // rows_per_step) + 1) * rows_per_step, len(bins))
    rehearsed_ends = np.round(rehearses.sum() * ends / len(bins)).astype(np.int64)
    parts = []
    for group, wanted in ((True, np.diff(rehearsed_ends)), (False, np.diff(ends - rehearsed_ends))):
        order = _by_bin(generator.permutation(np.flatnonzero(rehearses == group).astype(np.int32)), bins, len(widths))
        # For each of the two kinds it is drawn anew which step gets the shortest rows and which the longest.
        turns = generator.permutation(len(wanted))
        starts = np.empty_like(wanted)
        starts[turns] = np.cumsum(wanted[turns]) - wanted[turns]
        parts.append(_Part(order, starts, wanted, micro_tokens))
    rehearsed, trained = parts
    if largest := trained.largest(bins, widths):
        parts[0] = replace(rehearsed, micro_tokens=min(micro_tokens, max(largest, FEWEST_MICRO_TOKENS)))
    return Steps(parts, bins, np.asarray(widths, np.int32))


def _bins(lengths: Lengths, widths: Sequence[int]) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Which of the ascending `widths` is the smallest that holds each row. Raises: InputError when none does."""
    sizes = _checked(lengths)
    padded_width(int(sizes.max()), widths)
    return np.searchsorted(widths, sizes).astype(np.min_scalar_type(len(widths)))


def _by_bin(order: _Rows, bins: npt.NDArray[np.unsignedinteger[Any]], n_bins: int) -> _Rows:
    """`order`, the rows of narrow bins first."""
    own = bins[order]
    return np.concatenate([order[own == place] for place in range(n_bins)])


def _cut(order: _Rows, rows_per_step: int, generator: np.random.Generator) -> tuple[_Rows, _Rows]:
    """Full steps, and the remaining rows, taken from a seeded place so that they are not always the longest."""
    n_full, rest = divmod(len(order), rows_per_step)
    place = int(generator.integers(n_full + 1)) * rows_per_step
    kept = np.concatenate([order[:place], order[place + rest :]])
    return kept.reshape(n_full, rows_per_step), order[place : place + rest]


def batches_by_length(
    rows: Sequence[TokenRow], micro_tokens: int, most_rows: int | None = None
) -> Iterator[tuple[list[int], MicroBatch]]:
    """Every row once, in batches of similar lengths: (the rows' indices, their batch). See `groups_by_length`."""
    for group in groups_by_length([len(row.ids) for row in rows], micro_tokens, most_rows):
        yield group, collate([rows[index] for index in group], len(rows[group[-1]].ids))


def groups_by_length(lengths: Sequence[int], micro_tokens: int, most_rows: int | None = None) -> list[list[int]]:
    """The indices of all `lengths` in groups of similar ones, ascending.

    A group has at most `most_rows` rows and pads to at most `micro_tokens`; a longer row is alone.
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        count = len(groups[-1]) + 1 if groups else 1
        # Ascending: the newest row is the widest of its group.
        fits = count * lengths[index] <= micro_tokens and (most_rows is None or count <= most_rows)
        if groups and fits:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def collate(rows: Sequence[TokenRow], width: int) -> MicroBatch:
    """The rows right-padded with token 0 to `width` tokens. Raises: InputError naming a row that is longer."""
    ids = np.zeros((len(rows), width), dtype=np.int32)
    supervised = np.zeros((len(rows), width), dtype=np.bool_)
    rehearsal = np.array([row.category == REHEARSAL for row in rows])
    for index, row in enumerate(rows):
        length = len(row.ids)
        if length > width:
            raise InputError(
                tr(
                    "{origin}: {length} tokens do not fit a width of {width}; plan all rows at once",
                    origin=row.origin,
                    length=length,
                    width=width,
                )
            )
        ids[index, :length] = row.ids
        supervised[index, :length] = row.supervised
    return MicroBatch(
        ids,
        supervised,
        weights=_weights(rows, supervised),
        rehearsal=rehearsal,
        base_states=_base_states(rows),
        pictures=_pictures(rows, width),
    )


def batch_of(rows: Sequence[TokenRow], widths: Sequence[int]) -> MicroBatch:
    """The rows padded to the smallest of `widths` that holds the longest."""
    return collate(rows, padded_width(max(len(row.ids) for row in rows), widths))


def with_candidates(batch: MicroBatch, rows: Sequence[TokenRow]) -> MicroBatch:
    """`batch`, made of `rows`, with the tokens that might follow at their positions."""
    most = max(0 if row.candidates is None else len(row.candidates) for row in rows)
    if not most:
        return batch
    found = np.zeros((len(rows), most), CANDIDATES)
    found["token"] = -1
    for own, row in zip(found, rows, strict=True):
        if row.candidates is not None:
            own[: len(row.candidates)] = row.candidates
    return replace(batch, candidates=found)


def _pictures(rows: Sequence[TokenRow], width: int) -> PictureRows | None:
    """The pictures of rows that are padded to `width`. In rows of text, all three positions of a token are equal."""
    unseen = [row.origin for row in rows if row.pictures and row.seen is None]
    if unseen:
        raise InputError(
            tr("{origin}: a row with pictures where only text is read; leave it out of these rows", origin=unseen[0])
        )
    known = next((row.seen for row in rows if row.seen is not None), None)
    if known is None:
        return None
    which = np.zeros((len(rows), width), np.int64)
    positions = None
    if known.positions is not None:
        positions = np.broadcast_to(np.arange(width, dtype=np.int32), (len(rows), 3, width)).copy()
    for index, row in enumerate(rows):
        if row.seen is None:
            continue
        length = len(row.ids)
        which[index, :length] = row.seen.which[0]
        if positions is not None and row.seen.positions is not None:
            positions[index, :, :length] = row.seen.positions[0]
    return replace(known, which=which, positions=positions)


def _base_states(rows: Sequence[TokenRow]) -> npt.NDArray[np.float32] | None:
    known = [row.base_states for row in rows if row.base_states is not None]
    if len(known) < len(rows):
        return None
    states = np.zeros((len(known), max(map(len, known)), known[0].shape[1]), np.float32)
    for place, own in zip(states, known, strict=True):
        place[: len(own)] = own
    return states


def _weights(rows: Sequence[TokenRow], supervised: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32] | None:
    """[B, T], or None where no row has weights of its own."""
    if all(row.weights is None for row in rows):
        return None
    weights = supervised.astype(np.float32)
    for index, row in enumerate(rows):
        if row.weights is not None:
            weights[index, : len(row.ids)] = row.weights
    return weights


def divided(batches: Sequence[MicroBatch], divisor: int) -> list[MicroBatch]:
    """The same rows in micro-batches of about 1/`divisor` of the rows each, one row at least."""
    found = []
    for batch in batches:
        height = -(-len(batch.ids) // divisor)
        arrays = {field.name: getattr(batch, field.name) for field in fields(batch)}
        for at in range(0, len(batch.ids), height):
            part: dict[str, Any] = {
                name: array[at : at + height] for name, array in arrays.items() if array is not None
            }
            found.append(MicroBatch(**part))
    return found


def real_token_share(lengths: Sequence[int], steps: Sequence[Sequence[Sequence[int]]], widths: Sequence[int]) -> float:
    """Tokens of rows divided by tokens computed, padding included, over all micro-batches of `steps`."""
    micro_batches = [batch for step in steps for batch in step]
    real = sum(lengths[index] for batch in micro_batches for index in batch)
    padded = sum(len(batch) * padded_width(max(lengths[index] for index in batch), widths) for batch in micro_batches)
    return real / padded


def share_in_file_order(lengths: Lengths, batch_rows: int) -> float:
    """The real-token share of mlx-lm 0.32's batching on the same rows, for comparison.

    mlx-lm means to sort by length, but compares the numbers of keys of the rows, so its batches follow the file. Each
    pads to 1 + 32 ceil(longest / 32) tokens. Rows after the last full batch are left out, as it never trains on them.
    """
    sizes = _checked(lengths)
    rows = min(batch_rows, len(sizes))
    batches = sizes[: len(sizes) // rows * rows].reshape(-1, rows)
    return float(batches.sum() / (rows * (1 + 32 * -(-batches.max(axis=1) // 32))).sum())


def _checked(lengths: Lengths) -> npt.NDArray[np.int32]:
    sizes = np.asarray(lengths, dtype=np.int32)
    if not sizes.size:
        raise InputError(tr("batches: there is no row to train on; give at least one"))
    if sizes.min() < 1:
        raise InputError(tr("batches: row {row} has no tokens; remove it", row=int(sizes.argmin())))
    return sizes
