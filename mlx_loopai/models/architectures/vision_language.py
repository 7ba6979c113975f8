"""The text model's configuration from that of a model that reads pictures: Qwen2-VL, Qwen2.5-VL and Qwen3-VL.

For text their three rotary positions are equal, so the text model computes exactly what the plain text model does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# transformers' base of the rotary positions where a configuration has none; it differs from the text model's.
_DEFAULT_THETA = {"qwen2_vl": 1_000_000.0, "qwen2_5_vl": 1_000_000.0, "qwen3_vl": 500_000.0}
FAMILIES = tuple(_DEFAULT_THETA)
_SCALINGS = ("rope_scaling", "rope_parameters")


def family_of(model_type: object) -> str | None:
    """The family that a `model_type`, of the whole model or of its text part, belongs to; None: no pictures."""
    name = model_type.removesuffix("_text") if isinstance(model_type, str) else None
    return name if name in FAMILIES else None


def as_text_model(config: Mapping[str, Any], family: str) -> dict[str, Any]:
    """`config` of a text part with the rotary settings and the head that the plain text model means by them.

    The sections of the three positions say nothing about text; models/vision reads them for pictures.
    """
    found = dict(config)
    base = found.get("rope_theta")
    for key in _SCALINGS:
        nested = found.get(key)
        if not isinstance(nested, Mapping):
            continue
        kind = nested.get("rope_type") or nested.get("type")
        plain = {name: value for name, value in nested.items() if name not in ("mrope_section", "mrope_interleaved")}
        if kind == "mrope" or nested.get("type") == "mrope":
            plain = {name: value for name, value in plain.items() if name != "type"} | {"rope_type": "default"}
        found[key] = plain
        base = plain.get("rope_theta", base)
    if base is None:
        found["rope_theta"] = _DEFAULT_THETA[family]
    found.setdefault("tie_word_embeddings", False)
    return found
