"""Encodes the pictures of a prompt; the last ones are kept, since a chat shows them again with every turn."""

from __future__ import annotations

from collections.abc import Sequence

from mlx_loopai.data.images import Picture
from mlx_loopai.data.sight import Sight
from mlx_loopai.models.vision.part import VisionPart
from mlx_loopai.models.vision.pictures import Pictures
from mlx_loopai.models.vision.tower import PictureFeatures

# Features of one picture of 1280 tokens take 10 MB at a width of 2048.
_KEPT = 8


class Eyes:
    """The vision part of a model with its image processor. Use it from the thread that owns MLX."""

    def __init__(self, vision: VisionPart) -> None:
        self._vision = vision
        self.sight = Sight(vision.settings)
        self._kept: dict[str, PictureFeatures] = {}

    def pictures(self, ids: Sequence[int], pictures: Sequence[Picture]) -> Pictures:
        """The features of `pictures` for the prompt `ids`, which holds their tokens.

        Raises: InputError for a file that is not a picture.
        """
        found = [self._features(picture) for picture in pictures]
        starts = self.sight.starts(ids, [one.grid for one in found])
        return Pictures.of(len(ids), starts, found, bool(self._vision.settings.sections))

    def _features(self, picture: Picture) -> PictureFeatures:
        known = self._kept.pop(picture.digest, None)
        found = self._vision.features(*self.sight.pixels(picture)) if known is None else known
        self._kept[picture.digest] = found
        if len(self._kept) > _KEPT:
            del self._kept[next(iter(self._kept))]
        return found
