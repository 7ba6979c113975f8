"""The text model of a folder that also sees, as the plain model that mlx-lm has of it.

mlx-lm's own classes for these folders put it behind a prefix; a plain one has the same module names as any other text
model, so that an adapter, a guard or a plan needs no second form.
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
    """What mlx-lm's reader must put over `raw` to read its text model, whose configuration is `complete`."""
    overrides = {key: None for key in raw if key not in complete} | dict(complete) | {"text_config": {}}
    quantization = raw.get("quantization")
    if isinstance(quantization, Mapping):
        # It may differ by module; the modules have lost their prefix.
        overrides["quantization"] = {text_name(key): value for key, value in quantization.items()}
    overrides.pop("quantization_config", None)
    return overrides
