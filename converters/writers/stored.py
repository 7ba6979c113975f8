"""A tensor as it will lie on disk: its arrays, known before any weight is read, and then their bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod

import numpy as np

from converters.tensors import PACKED, STORAGE, TensorEntry, cast_checked

ITEM_BYTES = {name: kind.itemsize for name, kind in (STORAGE | PACKED).items()}


@dataclass(frozen=True)
class StoredArray:
    """Name, storage type and shape of one array in a safetensors file."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def n_bytes(self) -> int:
        return prod(self.shape) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class Stored:
    """One tensor: its arrays in file order, and `blocks()`, which gives their values in the same order."""

    arrays: tuple[StoredArray, ...]
    blocks: Callable[[], Iterator[np.ndarray]]
    n_elements: int

    @property
    def n_bytes(self) -> int:
        return sum(array.n_bytes for array in self.arrays)


def dense(entry: TensorEntry, dtype: str) -> Stored:
    """`entry` as `dtype`; no more than one block is in memory.

    Its `blocks` raise InputError for a value that is not finite or does not fit.
    """

    def blocks() -> Iterator[np.ndarray]:
        for start, stop in entry.spans():
            yield cast_checked(entry, start, stop, dtype)

    return Stored((StoredArray(entry.name, dtype, entry.shape),), blocks, entry.n_elements)
