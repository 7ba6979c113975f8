"""Blocks that see a window of the last tokens only, as configurations describe them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlx_loopai.models.architectures.architecture import Kind

_KINDS: dict[str, Kind] = {"full_attention": "full", "sliding_attention": "window"}


def kinds_of_layer_types(layer_types: Sequence[str]) -> tuple[Kind, ...]:
    """transformers' words for each block as ours."""
    return tuple(_KINDS[name] for name in layer_types)


def settle_window(config: dict[str, Any], layer_types: Sequence[Any]) -> list[str]:
    """Write `layer_types` out; what is wrong with them or with the window."""
    unknown = sorted({str(name)[:40] for name in layer_types} - _KINDS.keys())
    if unknown or len(layer_types) != config["num_hidden_layers"]:
        config["layer_types"] = ["full_attention"] * config["num_hidden_layers"]
        given = f"{len(layer_types)} blocks, {', '.join(unknown) or 'all known'}"
        return [f"layer_types ({given}) are not one of {', '.join(_KINDS)} for each block"]
    config["layer_types"] = list(layer_types)
    window = config.get("sliding_window")
    if "sliding_attention" in layer_types and (
        isinstance(window, bool) or not isinstance(window, int) or not 0 < window < 1 << 31
    ):
        return [f"sliding_window is {str(window)[:40]!r} where a positive whole number is needed"]
    return []
