"""The features of all pictures of a run, in a memory-mapped file, so that training needs no encoder in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mlx_loopai.data.images import Picture
from mlx_loopai.data.sight import Sight
from mlx_loopai.data.tokens import TokenRow
from mlx_loopai.models.micro_batch import PictureRows
from mlx_loopai.models.vision.patches import Grid
from mlx_loopai.models.vision.positions import rope_positions


@dataclass(frozen=True, eq=False)
class Shelf:
    """Features by picture. places: by a picture's digest, the index of its first feature and its grid."""

    sight: Sight
    places: Mapping[str, tuple[int, Grid]]
    features: npt.NDArray[np.float32]  # [M, D], mapped
    deepstack: npt.NDArray[np.float32] | None = None  # [M, L, D], mapped

    def seen(self, row: TokenRow) -> TokenRow:
        """The row with the features of its pictures."""
        if not row.pictures:
            return row
        found = [self.places[picture.digest] for picture in row.pictures]
        grids = [grid for _, grid in found]
        starts = self.sight.starts(row.ids.tolist(), grids)
        which = np.zeros((1, len(row.ids)), np.int64)
        for (first, grid), start in zip(found, starts, strict=True):
            which[0, start : start + grid.features] = 1 + first + np.arange(grid.features)
        positions = rope_positions(len(row.ids), starts, grids)[None] if self.sight.settings.sections else None
        return replace(row, seen=PictureRows(which, self.features, positions=positions, deepstack=self.deepstack))

    def all_seen(self, rows: Sequence[TokenRow]) -> list[TokenRow]:
        return [self.seen(row) for row in rows]


def distinct_pictures(rows: Iterable[TokenRow]) -> dict[str, Picture]:
    """The pictures that `rows` show, each once, by their digests."""
    found: dict[str, Picture] = {}
    for row in rows:
        for picture in row.pictures:
            found.setdefault(picture.digest, picture)
    return found
