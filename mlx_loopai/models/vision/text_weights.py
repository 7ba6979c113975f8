"""Loads the text model of a vision-language folder as mlx-lm's plain text model.

mlx-lm's own classes for such folders put the text model behind a prefix. The plain one has the module names of any
other text model, so adapters, guards and plans need no second form.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.utils import _get_classes

from mlx_loopai.models.vision.names import text_name, tower_name


def text_classes(config: dict[str, Any]) -> tuple[type[nn.Module], type]:
    """mlx-lm's classes of the text model that `config` describes, reading its tensors out of such a folder."""
    plain, arguments = _get_classes(config)

    class TextOfVision(plain):  # type: ignore[misc, valid-type]
        def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
            return super().sanitize(
                {text_name(name): array for name, array in weights.items() if tower_name(name) is None}
            )

    return TextOfVision, arguments


def text_overrides(complete: Mapping[str, Any], raw: Mapping[str, Any]) -> dict[str, Any]:
    """The values that mlx-lm's reader must replace in `raw` to read the text model; complete: its configuration."""
    overrides = {key: None for key in raw if key not in complete} | dict(complete) | {"text_config": {}}
    quantization = raw.get("quantization")
    if isinstance(quantization, Mapping):
        # It may differ by module; the modules have lost their prefix.
        overrides["quantization"] = {text_name(key): value for key, value in quantization.items()}
    overrides.pop("quantization_config", None)
    return overrides
