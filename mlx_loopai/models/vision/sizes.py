"""How large an image encoder is, and the memory that one picture needs in it, from settings alone."""

from __future__ import annotations

import math

import mlx.core as mx
from mlx.utils import tree_flatten

from mlx_loopai.models.vision import efficientnet
from mlx_loopai.models.vision.added import EFFICIENTNET, AddedSettings
from mlx_loopai.models.vision.settings import PatchSettings, TowerSettings, VisionSettings
from mlx_loopai.models.vision.tower import Tower

# States of EfficientNet-Lite0's widest layer (112 x 112 x 96) that are alive while shifted products are added up:
# 6.2 were measured on CPU.
_EFFICIENTNET_STATES = 7 * 112 * 112 * 96
# Alive in a block of a tower, besides attention's scores: states of its width, and states of its MLP's width.
_WIDE, _INNER = 14, 6


def encoder_numbers(settings: VisionSettings | AddedSettings) -> int:
    """Numbers of its weights."""
    if isinstance(settings, AddedSettings):
        if settings.encoder == EFFICIENTNET:
            return efficientnet.count_numbers()
        if settings.tower is None:
            return 0
        assert isinstance(settings.patches, PatchSettings)
        return _tower_numbers(settings.tower, settings.patches)
    return _tower_numbers(settings.tower, settings.patches)


def picture_bytes(settings: VisionSettings | AddedSettings, features: int, keeps_scores: bool) -> int:
    """Bytes that a picture of `features` features needs while it is encoded, in float32.

    keeps_scores: attention's scores are in memory, as on a CPU; on Metal its forward pass is linear in memory.
    """
    tower = settings.tower
    if tower is None:
        convolves = isinstance(settings, AddedSettings) and settings.encoder == EFFICIENTNET
        return 4 * _EFFICIENTNET_STATES if convolves else 0
    assert isinstance(settings.patches, PatchSettings)
    patches = features * settings.patches.merge**2
    pixels = patches * 3 * settings.patches.frames * settings.patches.patch**2
    scores = 2 * tower.heads * patches**2 if keeps_scores else 0
    return 4 * (pixels + scores + patches * (_WIDE * tower.width + _INNER * tower.inner))


def projector_numbers(width: int, hidden: int) -> int:
    """Parameters of a projector from features of `width` to a text model of width `hidden`."""
    return width * hidden + hidden * hidden + 2 * hidden


def _tower_numbers(tower: TowerSettings, patches: PatchSettings) -> int:
    # The arrays are never computed.
    found: list[tuple[str, mx.array]] = tree_flatten(Tower(tower, patches).parameters())
    return sum(math.prod(array.shape) for _, array in found)
