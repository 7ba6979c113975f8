"""A model's config.json by whatever name the model is given: enough to plan for it, without its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlx_loopai.errors import InputError
from mlx_loopai.language import tr
from mlx_loopai.models.known_shapes import SUFFIX, known_config, near_names
from mlx_loopai.models.shape import read_config

_NANO_FOLDER = Path(__file__).parent.parent / "assets" / "nano"


def find_config(model: str) -> tuple[dict[str, Any], str]:
    """(config.json of nano, a file, a folder, a cached hub id or a known name; what to call it in errors).

    Nothing is downloaded. Raises: InputError when there is none.
    """
    known = known_config(model)
    if known is not None:
        return known, model
    path = _NANO_FOLDER if model == "nano" else Path(model).expanduser()
    if path.exists():
        return read_config(path)
    if model.lower().endswith(SUFFIX):
        raise InputError(
            tr(
                "`model` {model}: no sizes of that name are known; near: {near}",
                model=model,
                near=", ".join(near_names(model)),
            )
        )
    cached = _cached_config(model)
    if cached is None:
        raise InputError(
            tr(
                "`model` {model}: no such folder or config.json, and no hub model of that name is cached; give "
                "nano, a folder, a config.json, a downloaded hub id or a name such as Qwen2.5-3B-shape",
                model=model,
            )
        )
    return read_config(cached)


def _cached_config(model: str) -> Path | None:
    """config.json of a hub id that is on this disk."""
    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        return None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(model, "config.json")
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None
