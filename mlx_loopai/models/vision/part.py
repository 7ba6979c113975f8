"""The part of a model that sees: opened with the text model, its tower read when the first picture comes."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from mlx_loopai.errors import InputError
from mlx_loopai.models.vision.patches import Grid
from mlx_loopai.models.vision.settings import VisionSettings
from mlx_loopai.models.vision.tower import PictureFeatures, Tower, load_tower, tower_weights


class VisionPart:
    """What `settings` describe, in the model folder `path`; it computes in `dtype`."""

    def __init__(self, settings: VisionSettings, path: Path, dtype: mx.Dtype) -> None:
        self.settings = settings
        self._path, self._dtype = path, dtype

    @cached_property
    def tower(self) -> Tower:
        """Raises: InputError when its tensors are missing or are not what the configuration describes."""
        weights = tower_weights(self._path)
        if any(name.endswith(".scales") for name in weights):
            raise InputError(
                f"{self._path}: its vision tower is quantised, which is not computed here; convert the original"
                " checkpoint (the tower stays dense)"
            )
        try:
            tower = load_tower(self.settings.tower, self.settings.patches, weights, self._dtype)
        except ValueError as error:
            raise InputError(f"{self._path}: the vision tower: {' '.join(str(error).split())[:300]}") from None
        mx.eval(tower.parameters())
        return tower

    def features(self, patches: npt.NDArray[np.float32], grid: Grid) -> PictureFeatures:
        """What a picture is to the text model. patches (N, C F P P)."""
        found = self.tower(mx.array(patches), grid)
        mx.eval([array for array in (found.features, found.deepstack) if array is not None])
        return found

    def close(self) -> None:
        """Give the tower's memory back; the next picture reads it again."""
        self.__dict__.pop("tower", None)
        mx.clear_cache()
