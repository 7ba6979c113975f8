"""Opens the vision part of a model's folder, and prepares the text model to read its features."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_loopai.models.vision.added import AddedSettings, AddedVision
from mlx_loopai.models.vision.part import NativeVision, VisionPart
from mlx_loopai.models.vision.rotary import install_rotary
from mlx_loopai.models.vision.settings import vision_settings


def open_vision(config: Mapping[str, Any], folder: Path, model: nn.Module, dtype: mx.Dtype) -> VisionPart | None:
    """The vision part; None for a text-only model. `model`, the text model of `folder`, is prepared to read features.

    Raises: InputError for settings that are absurd, or a projector that does not fit.
    """
    native = vision_settings(config, folder)
    if native is not None:
        install_rotary(model, native.axes)
        return NativeVision(native, folder, dtype)
    settings = AddedSettings.read(folder)
    if settings is None:
        return None
    added = AddedVision(settings, folder, dtype)
    added.put_projector(model)
    return added
