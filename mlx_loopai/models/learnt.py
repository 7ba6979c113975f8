"""Finds, reads and loads what a run has trained: an adapter or a whole model, which callers need not tell apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.nn as nn

from mlx_loopai.config import LoraOptions
from mlx_loopai.errors import InputError
from mlx_loopai.files import refuse_links_out
from mlx_loopai.language import tr
from mlx_loopai.models.adapters import check_base, find_adapter, load_adapter, read_adapter_config
from mlx_loopai.models.whole_model import UPDATE_FILE, put_whole_model


def find_learnt(path: Path) -> Path:
    """The folder of an adapter or whole model: `path` itself, or the one in the run's folder `path`.

    Raises: InputError when there is neither.
    """
    for folder in (path, path / "model"):
        if is_whole(folder):
            return folder
    return find_adapter(path)


def is_whole(folder: Path) -> bool:
    """Whether `folder` holds a whole model that knows which base it was trained from."""
    return (folder / UPDATE_FILE).is_file()


def read_learnt(folder: Path) -> dict[str, Any]:
    """The record (adapter_config.json or update.json) in `folder`, from `find_learnt`; our notes are in `mlx_loopai`.

    Raises: InputError when it is missing or broken.
    """
    if not is_whole(folder):
        return read_adapter_config(folder)
    path = folder / UPDATE_FILE
    refuse_links_out(folder, (UPDATE_FILE,))
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(tr("{path}: not valid JSON: {error}", path=path, error=error)) from None
    if not isinstance(found, dict) or not isinstance(found.get("mlx_loopai"), dict):
        raise InputError(
            tr("{path}: mlx_loopai is not an object; train the model again, or give another one", path=path)
        )
    return found


def put_learnt(model: nn.Module, folder: Path, base_hash: str | None = None) -> None:
    """Put on `model`, the base, the adapter or whole model in `folder`; switched off, it is the base again.

    A whole model's trained matrices are kept beside the base's, so these take twice the memory.

    Raises: InputError when it belongs to another base, or does not fit `model`.
    """
    if not is_whole(folder):
        load_adapter(model, folder, base_hash)
        return
    config = read_learnt(folder)
    check_base(folder, config, base_hash)
    form = config["mlx_loopai"].get("lora")
    try:
        options = LoraOptions.model_validate(form)
    except ValueError as error:  # pydantic's own is one
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            tr(
                "{path}: {reason}; train the model again, or give another one",
                path=folder / UPDATE_FILE,
                reason=reason,
            )
        ) from None
    put_whole_model(model, folder, options)
