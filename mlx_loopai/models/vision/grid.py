"""Where the patches of a picture are, in the order in which a tower reads them. Pure numpy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mlx_loopai.models.vision.patches import Grid


def patch_places(grid: Grid) -> npt.NDArray[np.int32]:
    """(N, 2): row and column of each patch. The patches of one feature follow each other."""
    rows, columns = np.meshgrid(np.arange(grid.rows), np.arange(grid.columns), indexing="ij")
    places = np.stack([rows, columns], axis=-1).astype(np.int32)
    blocks = places.reshape(grid.feature_rows, grid.merge, grid.feature_columns, grid.merge, 2)
    return blocks.swapaxes(1, 2).reshape(-1, 2)


def windows(grid: Grid, side: int) -> npt.NDArray[np.int32]:
    """(W, S): the patches of each window of `side` x `side` features, -1 where a window passes the picture's edge."""
    per_feature = grid.merge**2
    down, across = -(-grid.feature_rows // side), -(-grid.feature_columns // side)
    features = np.full((down * side, across * side), -1)
    features[: grid.feature_rows, : grid.feature_columns] = np.arange(grid.features).reshape(
        grid.feature_rows, grid.feature_columns
    )
    by_window = features.reshape(down, side, across, side).swapaxes(1, 2).reshape(-1, side * side, 1)
    patches = by_window * per_feature + np.arange(per_feature)
    return np.where(by_window < 0, -1, patches).reshape(len(by_window), -1).astype(np.int32)


def interpolation(grid: Grid, side: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """For each patch (N, 4) the entries of a square table of `side` that its position lies between, and their weights.

    Bilinear, the table's corners at the picture's corners.
    """
    places = patch_places(grid)
    (top, down), (left, right) = (
        _between(places[:, axis], count, side) for axis, count in enumerate((grid.rows, grid.columns))
    )
    rows = np.stack([top, np.minimum(top + 1, side - 1)], axis=1)
    columns = np.stack([left, np.minimum(left + 1, side - 1)], axis=1)
    row_weights, column_weights = np.stack([1 - down, down], axis=1), np.stack([1 - right, right], axis=1)
    entries = (rows[:, :, None] * side + columns[:, None, :]).reshape(-1, 4)
    weights = (row_weights[:, :, None] * column_weights[:, None, :]).reshape(-1, 4)
    return entries.astype(np.int32), weights.astype(np.float32)


def _between(
    places: npt.NDArray[np.int32], count: int, side: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """(the entry before each place, how far the place lies behind it)."""
    exact = places.astype(np.float32) * np.float32(side - 1) / np.float32(max(count - 1, 1))
    below = np.floor(exact)
    return below.astype(np.int64), (exact - below).astype(np.float32)
