"""Sizes, patches, positions and windows against references written out token by token."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_loopai.errors import InputError
from mlx_loopai.models.vision.grid import interpolation, patch_places, windows
from mlx_loopai.models.vision.patches import Grid, patches_of, resized
from mlx_loopai.models.vision.positions import next_position, rope_positions
from mlx_loopai.models.vision.settings import PatchSettings

SETTINGS = PatchSettings(
    patch=4, frames=2, merge=2, mean=(0.5, 0.4, 0.3), deviation=(0.2, 0.3, 0.4), min_pixels=256, max_pixels=4096
)
GRIDS = st.builds(lambda rows, columns: Grid(2 * rows, 2 * columns, 2), st.integers(1, 6), st.integers(1, 6))


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_a_picture_is_brought_within_the_limits_and_keeps_its_form(height: int, width: int) -> None:
    if max(height, width) > 200 * min(height, width):
        with pytest.raises(InputError, match="differ more than 200 to 1"):
            resized(height, width, SETTINGS)
        return
    high, wide = resized(height, width, SETTINGS)
    assert high % SETTINGS.side == wide % SETTINGS.side == 0
    assert high >= SETTINGS.side
    assert wide >= SETTINGS.side
    # A strip cannot be thinner than a feature.
    if min(high, wide) > SETTINGS.side:
        assert SETTINGS.min_pixels <= high * wide <= SETTINGS.max_pixels
        assert abs(np.log((high / wide) / (height / width))) < np.log(2)


@given(GRIDS)
def test_a_patch_holds_the_pixels_of_its_place(grid: Grid) -> None:
    patch, mean = SETTINGS.patch, np.array(SETTINGS.mean)
    pixels = np.random.default_rng(1).integers(0, 256, (grid.rows * patch, grid.columns * patch, 3), dtype=np.uint8)
    found, own = patches_of(pixels, SETTINGS)
    assert own == grid
    for values, (row, column) in zip(found, patch_places(grid), strict=True):
        there = pixels[row * patch : (row + 1) * patch, column * patch : (column + 1) * patch] / 255
        expected = ((there - mean) / np.array(SETTINGS.deviation)).transpose(2, 0, 1)
        shaped = values.reshape(3, SETTINGS.frames, patch, patch)
        assert np.abs(shaped - expected[:, None]).max() < 1e-6


@given(GRIDS, st.integers(1, 4))
def test_every_patch_is_in_one_window_with_its_neighbours(grid: Grid, side: int) -> None:
    places, found = patch_places(grid), windows(grid, side)
    real = found[found >= 0]
    assert sorted(real.tolist()) == list(range(grid.rows * grid.columns))
    for window in found:
        own = places[window[window >= 0]] // (grid.merge * side)
        assert len(np.unique(own, axis=0)) <= 1


@given(GRIDS, st.integers(2, 6))
def test_positions_of_a_table_are_interpolated_between_its_corners(grid: Grid, side: int) -> None:
    table = np.arange(side * side, dtype=np.float64).reshape(side, side)
    entries, weights = interpolation(grid, side)
    found = (table.reshape(-1)[entries] * weights).sum(axis=1)
    rows, columns = patch_places(grid).T
    down, across = rows * (side - 1) / max(grid.rows - 1, 1), columns * (side - 1) / max(grid.columns - 1, 1)
    assert np.allclose(found, down * side + across, atol=1e-4)


@given(st.lists(st.tuples(st.integers(0, 4), GRIDS), max_size=3), st.integers(0, 4))
def test_positions_go_on_from_the_largest(parts: list[tuple[int, Grid]], rest: int) -> None:
    expected: list[tuple[int, int, int]] = []
    starts, position = [], 0
    for text, grid in parts:
        expected += [(position + at,) * 3 for at in range(text)]
        position += text
        starts.append(len(expected))
        for row in range(grid.feature_rows):
            expected += [(position, position + row, position + column) for column in range(grid.feature_columns)]
        position = max(max(triple) for triple in expected) + 1
    expected += [(position + at,) * 3 for at in range(rest)]
    found = rope_positions(len(expected), starts, [grid for _, grid in parts])
    assert found.T.tolist() == [list(triple) for triple in expected]
    assert next_position(found) == (max(map(max, expected)) + 1 if expected else 0)
