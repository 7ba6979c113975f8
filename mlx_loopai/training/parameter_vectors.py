"""Many small parameters as a few long vectors, so that an update is a few operations and not ten for every array."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import mlx.core as mx
import mlx.optimizers as optimizers
from mlx.utils import tree_flatten, tree_unflatten

from mlx_loopai.models.pass_sizes import VECTOR_ENTRIES

# Every entry is updated by itself. Muon and Adafactor look at a matrix's rows and columns.
_ELEMENTWISE = (optimizers.SGD, optimizers.Adam, optimizers.Lion)


class ParameterVectors:
    """The arrays of a parameter tree laid end to end: vectors of at most VECTOR_ENTRIES, unless one array is longer.

    For an optimizer that needs matrices every array stays alone and keeps its shape.
    """

    def __init__(self, parameters: Any, optimizer: optimizers.Optimizer) -> None:
        self._groups: dict[str, list[tuple[str, tuple[int, ...]]]] = {}
        room = VECTOR_ENTRIES if isinstance(optimizer, _ELEMENTWISE) else 0
        left = 0
        for name, array in tree_flatten(parameters):
            if array.size > left or not self._groups:
                group = self._groups.setdefault(f"vector{len(self._groups)}", [])
                left = room
            group.append((name, array.shape))
            left -= array.size

    def join(self, tree: Any) -> dict[str, mx.array]:
        """The vectors of a tree that has the parameters' names and shapes."""
        arrays = dict(tree_flatten(tree))
        return {vector: _joined([arrays[name] for name, _ in group]) for vector, group in self._groups.items()}

    def split(self, vectors: dict[str, mx.array]) -> Any:
        """The tree, or the part of one, that `join` made `vectors` of."""
        found: list[tuple[str, mx.array]] = []
        for vector, array in vectors.items():
            names, shapes = zip(*self._groups[vector], strict=True)
            found += zip(names, _parts(array, shapes), strict=True)
        return tree_unflatten(found)


def _joined(arrays: Sequence[mx.array]) -> mx.array:
    return arrays[0] if len(arrays) == 1 else mx.concatenate([array.reshape(-1) for array in arrays])


def _parts(vector: mx.array, shapes: Sequence[tuple[int, ...]]) -> list[mx.array]:
    edges = list(accumulate(map(math.prod, shapes)))[:-1]
    parts = mx.split(vector, edges) if edges else [vector]
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
