"""Finds the base that an adapter belongs to, so that a run's folder is all that a command needs."""

from __future__ import annotations

from pathlib import Path

import yaml

from mlx_loopai.errors import InputError
from mlx_loopai.language import tr
from mlx_loopai.models.adapters import check_base
from mlx_loopai.models.hub import is_hub_id
from mlx_loopai.models.learnt import find_learnt, read_learnt
from mlx_loopai.models.load import NANO, hash_base, resolve_model
from mlx_loopai.runs.directory import RunDirectory
from mlx_loopai.runs.documents.document import read_text


def base_of(adapter: Path | None, model: str | None = None) -> str:
    """The name of the base to load: `model` where it is given, else the one that `adapter` was trained on, else nano.

    adapter: the folder of an adapter, of a run, or of the whole model that a run trained. Its base is looked for under
    the name in the run's resolved.yaml, then under the name that it itself records. Nothing is loaded or downloaded.

    Raises: InputError when there is no adapter, when `model` is a folder with another base, or when the adapter's own
    base is not found.
    """
    if adapter is None:
        return model or NANO
    folder = find_learnt(adapter)
    config = read_learnt(folder)
    if model is not None:
        if _is_here(model):
            check_base(folder, config, hash_base(resolve_model(model)))
        return model
    notes = config.get("mlx_loopai") or {}
    recorded, own = notes.get("base_hash"), notes.get("base")
    settings = RunDirectory(folder.parent).resolved
    found = [model_in(settings)] if settings.is_file() else []
    names = list(dict.fromkeys(name for name in (*found, own) if isinstance(name, str) and name))
    for name in names if not recorded else [*names, NANO]:
        if _is_here(name):
            if not recorded or hash_base(resolve_model(name)) == recorded:
                return name
        # `models/base` looks like a hub id, too. For a local folder the adapter records only the last part of the name.
        elif is_hub_id(name) and own in (None, name):
            return name
    looked = (
        tr("its base, {names}, is not here or has changed", names=" or ".join(names))
        if names
        else tr("it does not name its base")
    )
    raise InputError(tr("`adapter` {adapter}: {looked}; give the base as `model`", adapter=adapter, looked=looked))


def _is_here(name: str) -> bool:
    return name == NANO or Path(name).expanduser().is_dir()


def model_in(settings: Path) -> str:
    """The base that a run's resolved.yaml names; "" where it names none. Raises: InputError when it is not YAML."""
    try:
        found = yaml.safe_load(read_text(settings))
    except yaml.YAMLError as error:
        raise InputError(
            tr(
                "{settings}: not YAML: {error}; mend the file",
                settings=settings,
                error=" ".join(str(error).split())[:200],
            )
        ) from None
    named = found.get("model") if isinstance(found, dict) else None
    return named if isinstance(named, str) else ""
