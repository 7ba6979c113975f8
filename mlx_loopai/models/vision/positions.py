"""The three rotary positions of each token of a prompt with pictures: time, row and column. Pure numpy.

Source: Qwen2-VL (arXiv 2409.12191), section 2.1 (M-RoPE). A text token has one number in all three. A picture's
features have the time of its beginning, and their row and column counted from there; the text behind it goes on from
the largest of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mlx_loopai.models.vision.patches import Grid


def rope_positions(tokens: int, starts: Sequence[int], grids: Sequence[Grid]) -> npt.NDArray[np.int32]:
    """The positions (3, T) of `tokens` tokens; picture i has its features' tokens from `starts[i]` on."""
    found = np.empty((3, tokens), np.int32)
    place, position = 0, 0
    for start, grid in zip(starts, grids, strict=True):
        found[:, place:start] = position + np.arange(start - place)
        position += start - place
        place = start + grid.features
        rows, columns = np.divmod(np.arange(grid.features), grid.feature_columns)
        found[:, start:place] = position + np.stack([np.zeros_like(rows), rows, columns])
        position += max(grid.feature_rows, grid.feature_columns)
    found[:, place:] = position + np.arange(tokens - place)
    return found


def next_position(positions: npt.NDArray[np.int32]) -> int:
    """The position of the token after those of `positions` (3, T)."""
    return int(positions.max()) + 1 if positions.size else 0
