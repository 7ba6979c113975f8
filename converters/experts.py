"""Converts the expert weights of mixture-of-experts models between transformers' layout and mlx-lm's.

transformers' folders have one tensor for each expert, or (in some releases) stacked tensors with gate and up joined.
mlx-lm stacks all experts of a matrix: `mlp.switch_mlp.{gate,up,down}_proj.weight` (experts, out, in). A `Checkpoint`
has mlx-lm's layout.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from converters.tensors import TensorEntry
from mlx_loopai.errors import InputError
from mlx_loopai.language import tr

_ONE = re.compile(r"(.+\.mlp)\.experts\.(\d{1,6})\.(gate_proj|up_proj|down_proj)\.weight")
_JOINED = re.compile(r"(.+\.mlp)\.experts\.(gate_up_proj|down_proj)")
_STACKED = re.compile(r"(.+\.mlp)\.switch_mlp\.(gate_proj|up_proj|down_proj)\.weight")

Rows = Callable[[int, int], np.ndarray]


def stacked(entries: Mapping[str, TensorEntry], where: str) -> dict[str, TensorEntry]:
    """The entries with the experts of each matrix stacked in one tensor; other entries are unchanged.

    Raises:
        InputError: experts that are missing, or of different sizes.
    """
    found: dict[str, TensorEntry] = {}
    groups: dict[str, dict[int, TensorEntry]] = {}
    for name, entry in entries.items():
        one, joined = _ONE.fullmatch(name), _JOINED.fullmatch(name)
        if one:
            groups.setdefault(f"{one[1]}.switch_mlp.{one[3]}.weight", {})[int(one[2])] = entry
        elif joined and len(entry.shape) == 3:
            found |= _split(entry, joined[1], joined[2])
        else:
            found[name] = entry
    return found | {name: _stack(name, group, where) for name, group in groups.items()}


def _stack(name: str, group: Mapping[int, TensorEntry], where: str) -> TensorEntry:
    first = next(iter(group.values()))
    if sorted(group) != list(range(len(group))) or any(
        entry.shape != first.shape or entry.dtype != first.dtype or len(entry.shape) != 2 for entry in group.values()
    ):
        raise InputError(
            tr(
                "{where}: the experts of {name} are not all there, or not of one size; get a fresh copy",
                where=where,
                name=name,
            )
        )
    experts = [group[number] for number in range(len(group))]
    size = first.rows

    def read_rows(start: int, stop: int) -> np.ndarray:
        touched = range(start // size, -(-stop // size))
        return np.concatenate(
            [experts[n].read_rows(max(start - n * size, 0), min(stop - n * size, size)) for n in touched]
        )

    return replace(first, name=name, shape=(len(experts), *first.shape), read_rows=read_rows)


def _split(entry: TensorEntry, prefix: str, what: str) -> dict[str, TensorEntry]:
    """The parts of a joined tensor (experts, out, in) by their names; in gate_up_proj the gate comes first."""
    if what == "down_proj":
        name = f"{prefix}.switch_mlp.down_proj.weight"
        return {name: replace(entry, name=name)}
    count, both, into = entry.shape
    size = both // 2
    found = {}
    for part, offset in (("gate_proj", 0), ("up_proj", size)):
        name = f"{prefix}.switch_mlp.{part}.weight"
        rows = _some_of_every(entry.read_rows, size, both, offset)
        found[name] = replace(entry, name=name, shape=(count, size, into), read_rows=rows)
    return found


def _some_of_every(read: Rows, size: int, stride: int, offset: int) -> Rows:
    """A reader of a part of each expert: of every `stride` rows of `read`, the `size` rows from `offset` on."""

    def read_rows(start: int, stop: int) -> np.ndarray:
        parts = []
        while start < stop:
            number, at = divmod(start, size)
            count = min(size - at, stop - start)
            first = number * stride + offset + at
            parts.append(read(first, first + count))
            start += count
        return np.concatenate(parts)

    return read_rows


def one_by_one(entries: Sequence[TensorEntry]) -> list[TensorEntry]:
    """The inverse of `stacked`: one entry for each expert's matrix, as transformers writes them."""
    found: list[TensorEntry] = []
    for entry in entries:
        match = _STACKED.fullmatch(entry.name)
        found += [entry] if match is None else _apart(entry, match[1], match[2])
    return found


def _apart(entry: TensorEntry, prefix: str, part: str) -> list[TensorEntry]:
    count, size, _ = entry.shape
    return [
        replace(
            entry,
            name=f"{prefix}.experts.{number}.{part}.weight",
            shape=entry.shape[1:],
            read_rows=_some_of_every(entry.read_rows, size, size, number * size),
        )
        for number in range(count)
    ]
