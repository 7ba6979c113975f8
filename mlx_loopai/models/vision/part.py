"""The vision part of a model: opened with the text model; its encoder is read when the first picture comes."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy.typing as npt

from mlx_loopai.errors import InputError
from mlx_loopai.language import tr
from mlx_loopai.models.vision.patches import Grid
from mlx_loopai.models.vision.settings import Seen, VisionSettings
from mlx_loopai.models.vision.tower import PictureFeatures, Tower, load_tower, tower_weights


class VisionPart:
    """The vision part of the model in folder `path`; it computes in `dtype`."""

    settings: Seen

    def __init__(self, settings: Seen, path: Path, dtype: mx.Dtype) -> None:
        self.settings = settings
        self._path, self._dtype = path, dtype

    def features(self, patches: npt.NDArray[Any], grid: Grid) -> PictureFeatures:
        """The features that the text model reads for a picture, from the pixels that the encoder reads."""
        raise NotImplementedError

    def close(self) -> None:
        """Give the encoder's memory back; the next picture reads it again."""
        mx.clear_cache()


class NativeVision(VisionPart):
    """The vision tower of a model that was trained with pictures."""

    def __init__(self, settings: VisionSettings, path: Path, dtype: mx.Dtype) -> None:
        super().__init__(settings, path, dtype)
        self._own = settings

    @cached_property
    def tower(self) -> Tower:
        """The tower, read at first use. Raises: InputError when tensors are missing or do not fit the configuration."""
        weights = tower_weights(self._path)
        if any(name.endswith(".scales") for name in weights):
            raise InputError(
                tr(
                    "{path}: its vision tower is quantised, which is not computed here; convert the original "
                    "checkpoint (the tower stays dense)",
                    path=self._path,
                )
            )
        try:
            tower = load_tower(self._own.tower, self._own.patches, weights, self._dtype)
        except ValueError as error:
            raise InputError(
                tr("{path}: the vision tower: {reason}", path=self._path, reason=" ".join(str(error).split())[:300])
            ) from None
        mx.eval(tower.parameters())
        return tower

    def features(self, patches: npt.NDArray[Any], grid: Grid) -> PictureFeatures:
        """patches (N, C F P P)."""
        found = self.tower(mx.array(patches), grid)
        mx.eval([array for array in (found.features, found.deepstack) if array is not None])
        return found

    def close(self) -> None:
        self.__dict__.pop("tower", None)
        super().close()
