"""From the pixels of a picture to the patches that a vision tower reads. Pure numpy; `data/images.py` opens files.

Source: Qwen2-VL (arXiv 2409.12191), section 2.1; the order of patches and the rounding of sizes are transformers'
`Qwen2VLImageProcessorPil`, to which tests/parity/test_vision_parity.py holds them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlx_loopai.errors import InputError
from mlx_loopai.language import tr
from mlx_loopai.models.vision.settings import MOST_ASPECT, PatchSettings


@dataclass(frozen=True)
class Grid:
    """Rows and columns of a picture's patches; each square of `merge` x `merge` patches becomes one feature."""

    rows: int
    columns: int
    merge: int

    @property
    def features(self) -> int:
        """Features, and tokens, of the picture."""
        return self.feature_rows * self.feature_columns

    @property
    def feature_rows(self) -> int:
        return self.rows // self.merge

    @property
    def feature_columns(self) -> int:
        return self.columns // self.merge


def resized(height: int, width: int, settings: PatchSettings) -> tuple[int, int]:
    """(height, width) in pixels to which a picture is resized: multiples of a feature's side, within the limits.

    Raises: InputError for a picture whose sides differ more than 200 to 1.
    """
    if max(height, width) > MOST_ASPECT * min(height, width):
        raise InputError(
            tr(
                "a picture of {width} x {height} pixels: its sides differ more than {most} to 1",
                width=width,
                height=height,
                most=MOST_ASPECT,
            )
        )
    side = settings.side
    found = round(height / side) * side, round(width / side) * side
    if math.prod(found) > settings.max_pixels:
        shrink = math.sqrt(height * width / settings.max_pixels)
        return tuple(max(side, math.floor(one / shrink / side) * side) for one in (height, width))  # type: ignore[return-value]
    if math.prod(found) < settings.min_pixels:
        grow = math.sqrt(settings.min_pixels / (height * width))
        return tuple(math.ceil(one * grow / side) * side for one in (height, width))  # type: ignore[return-value]
    return found


def patches_of(pixels: npt.NDArray[np.uint8], settings: PatchSettings) -> tuple[npt.NDArray[np.float32], Grid]:
    """(patches (N, C F P P), their grid) of an RGB picture (H, W, 3), both sides multiples of `settings.side`.

    The patches of one feature follow each other, row by row. The towers read video, so a picture is repeated as its own
    second frame.
    """
    height, width, channels = pixels.shape
    grid = Grid(height // settings.patch, width // settings.patch, settings.merge)
    mean, deviation = np.array(settings.mean, np.float32), np.array(settings.deviation, np.float32)
    scaled = ((pixels.astype(np.float64) / 255).astype(np.float32) - mean) / deviation
    merge, patch = settings.merge, settings.patch
    blocks = scaled.reshape(grid.feature_rows, merge, patch, grid.feature_columns, merge, patch, channels)
    # feature row, feature column, row and column in it, colour, then the patch's own rows and columns
    ordered = blocks.transpose(0, 3, 1, 4, 6, 2, 5)
    frames = np.repeat(ordered[:, :, :, :, :, None], settings.frames, axis=5)
    return np.ascontiguousarray(frames.reshape(grid.rows * grid.columns, settings.patch_values)), grid
