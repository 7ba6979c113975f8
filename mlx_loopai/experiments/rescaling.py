"""Rescales an adapter after training, as a whole or block by block, for the best gain at a floor of retention."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import mlx.nn as nn
from mlx.utils import tree_unflatten

from mlx_loopai.models.adapters import adapter_arrays
from mlx_loopai.models.updated_linear import scale_update
from mlx_loopai.progress import Advance, ignore

_BLOCK = re.compile(r"\blayers\.(\d+)\.")


@dataclass(frozen=True)
class Rescaling:
    """Block l of L counts first + (last - first) (l - 1) / (L - 1) of its update; equal ends: one scale for all.

    Source: WiSE-FT (arXiv 2109.01903) for one scale; LiNeS (arXiv 2410.17146, equation 3) for the line over blocks.
    """

    first: float
    last: float

    def factor(self, block: int, blocks: int) -> float:
        """The factor of block `block`, counted from 0, of `blocks`."""
        return self.first + (self.last - self.first) * block / max(1, blocks - 1)


@dataclass(frozen=True)
class Point:
    """A rescaling and what the model scores with it."""

    rescaling: Rescaling
    gain: float
    retention: float


SCALES = tuple(Rescaling(scale, scale) for scale in (0.25, 0.5, 0.625, 0.75, 0.875, 1.0))
LINES = tuple(Rescaling(first, 1.0) for first in (0.0, 0.25, 0.5, 0.75))


@contextmanager
def rescaled(model: nn.Module, rescaling: Rescaling) -> Iterator[None]:
    """Inside, the update of `model` is scaled by `rescaling`."""
    before = adapter_arrays(model)
    try:
        scale_update(model, lambda name: rescaling.factor(_block(name), len(model.layers)))
        yield
    finally:
        model.update(tree_unflatten(list(before.items())))


def sweep(
    model: nn.Module,
    gain: Callable[[], float],
    retention: Callable[[], float],
    rescalings: Sequence[Rescaling] = (*SCALES, *LINES),
    on_progress: Advance = ignore,
) -> list[Point]:
    """Gain and retention of the adapted `model` with every rescaling, computed by the two functions."""
    points = []
    for done, rescaling in enumerate(rescalings):
        with rescaled(model, rescaling):
            points.append(Point(rescaling, gain(), retention()))
        on_progress(done + 1)
    return points


def best(points: Sequence[Point], floor: float) -> Point:
    """The largest gain among points whose retention is at least `floor`; where none is, the largest retention."""
    above = [point for point in points if point.retention >= floor]
    if above:
        return max(above, key=lambda point: (point.gain, point.retention))
    return max(points, key=lambda point: (point.retention, point.gain))


def _block(name: str) -> int:
    found = _BLOCK.search(name)
    assert found is not None, name  # adapters are put on blocks alone
    return int(found.group(1))
