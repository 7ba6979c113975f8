"""Saves a fully fine-tuned model as a folder like its base's: the same files, with the trained matrices changed."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_loopai.config import LoraOptions
from mlx_loopai.errors import InputError, all_problems
from mlx_loopai.files import whole_folder
from mlx_loopai.language import tr
from mlx_loopai.models.adapters import save_arrays
from mlx_loopai.models.full import ChangedLinear, FullLinear, apply_full, full_modules
from mlx_loopai.models.model_card import CARD_FILE, whole_model_card
from mlx_loopai.models.module_names import split_module
from mlx_loopai.models.updated_linear import put_update
from mlx_loopai.models.vision.added import FOLDER as ADDED_VISION

WEIGHTS = "model*.safetensors"
# Records the base that it was trained from, and which matrices were trained.
UPDATE_FILE = "update.json"
# What of a base's folder is not weights: configuration, tokenizer, template, licence.
_COPIED = ("*.json", "*.txt", "*.jinja", "*.model", "*.tiktoken", "LICENSE*", "NOTICE*")
# A matrix of a block in a checkpoint of transformers or mlx-lm, alone or as the text part of a multimodal model.
_MATRIX = re.compile(
    r"(?:model|model\.language_model|language_model\.model|gpt_neox)\.(?:layers|h)\.(\d{1,6})\.([\w.]+)\.weight"
)
# (block, name in it)
_Place = tuple[int, str]
_DTYPE_NAMES = {mx.float32: "float32", mx.bfloat16: "bfloat16", mx.float16: "float16"}


def check_can_be_saved(base: Path, layers: Mapping[str, FullLinear]) -> None:
    """Check before training that the files of `base` hold every matrix of `layers` as the model has it.

    Raises: InputError naming the matrices that do not.
    """
    missing = _places(layers)
    for place, layer, stored in _stored(base, missing):
        # Read in another precision, the model's numbers are those of the file, cast.
        if mx.array_equal(stored.astype(layer.linear.weight.dtype), layer.linear.weight).item():
            del missing[place]
    if missing:
        raise InputError(
            tr(
                "{path}: stores {problems} in a form that differs from what the model computes with, so trained values "
                "could not be stored in it; convert the base first: mlx-loopai convert",
                path=base,
                problems=all_problems([f"{number}.{name}" for number, name in missing]),
            )
        )


def save_whole_model(folder: Path, base: Path, model: nn.Module, form: LoraOptions, notes: Mapping[str, Any]) -> None:
    """Write `folder` whole or not at all: the files of `base`, with W + D for every trained matrix of `model`.

    Trained matrices are written in the precision that the model computes in, so that what is read back is what was
    trained. All other tensors keep their bytes. form: which matrices they are. notes: as `whole_model_card` shows them.
    Both are recorded, so that the model can be put on its base again (models/learnt.py).

    Raises: OSError.
    """
    places = _places(full_modules(model))
    dtype = next(iter(places.values())).linear.weight.dtype
    with whole_folder(folder) as temporary:
        for pattern in _COPIED:
            for file in base.glob(pattern):
                shutil.copyfile(file, temporary / file.name)
        if (base / ADDED_VISION).is_dir():
            shutil.copytree(base / ADDED_VISION, temporary / ADDED_VISION)
        for file in _files(base):
            arrays, metadata = mx.load(str(file), return_metadata=True)
            for name in arrays:
                layer = places.get(_place(name) or (-1, ""))
                if layer is not None:
                    arrays[name] = layer.changed_weight
            save_arrays(temporary / file.name, arrays, metadata)
        _write_config(base / "config.json", temporary / "config.json", _DTYPE_NAMES[dtype])
        trained = {"lora": form.model_dump(mode="json", include={"targets", "layers"})}
        recorded = {"fine_tune_type": "full", "mlx_loopai": {**notes, **trained}}
        (temporary / UPDATE_FILE).write_text(json.dumps(recorded, ensure_ascii=False, indent=2) + "\n", "utf-8")
        (temporary / CARD_FILE).write_text(whole_model_card(notes), encoding="utf-8")


def load_whole_update(model: nn.Module, folder: Path, options: LoraOptions) -> None:
    """Put the update of the model in `folder` on `model`, its base: D = W' - W, up to float32's rounding.

    Raises: InputError when `folder` does not hold the matrices that `options` name.
    """
    missing = _places(apply_full(model, options))
    for place, layer, stored in _stored(folder, missing):
        layer.delta = stored.astype(mx.float32) - layer.linear.weight.astype(mx.float32)
        mx.eval(layer.delta)
        del missing[place]
    _refuse_missing(folder, missing)


def put_whole_model(model: nn.Module, folder: Path, options: LoraOptions) -> None:
    """Put the trained matrices in `folder` (those that `options` name) beside those of `model`, the base, to generate.

    Raises: InputError when `folder` does not hold them.
    """
    missing = _places(apply_full(model, options))
    for place, layer, stored in _stored(folder, missing):
        changed = stored.astype(layer.linear.weight.dtype)
        mx.eval(changed)
        put_update(model, *place, ChangedLinear(layer.linear, changed))
        del missing[place]
    _refuse_missing(folder, missing)


def _refuse_missing(folder: Path, missing: Mapping[_Place, FullLinear]) -> None:
    if missing:
        raise InputError(
            tr(
                "{path}: lacks {problems}, which the run trained; give the run's own folder, or train it again",
                path=folder,
                problems=all_problems([f"{number}.{name}" for number, name in missing]),
            )
        )


def _files(base: Path) -> list[Path]:
    return sorted(base.glob(WEIGHTS))


def _stored(folder: Path, wanted: Mapping[_Place, FullLinear]) -> Iterator[tuple[_Place, FullLinear, mx.array]]:
    """The matrices in the files of `folder` that are still `wanted`, in the same shape; one at a time is in memory."""
    for file in _files(folder):
        arrays = mx.load(str(file))
        for name in list(arrays):
            stored, place = arrays.pop(name), _place(name)
            layer = None if place is None else wanted.get(place)
            if place is not None and layer is not None and stored.shape == layer.delta.shape:
                yield place, layer, stored


def _places(layers: Mapping[str, FullLinear]) -> dict[_Place, FullLinear]:
    return {split_module(name): layer for name, layer in layers.items()}


def _place(name: str) -> _Place | None:
    """(block, name in it) of a tensor's module, as `split_module` gives them; None outside the blocks."""
    found = _MATRIX.fullmatch(name)
    return None if found is None else (int(found[1]), found[2])


def _write_config(source: Path, target: Path, dtype: str) -> None:
    """The configuration with the precision of the trained matrices where it names one: readers cast to it."""
    config = json.loads(source.read_text(encoding="utf-8"))
    for part in (config, config.get("text_config")):
        for key in ("torch_dtype", "dtype"):
            if isinstance(part, dict) and key in part:
                part[key] = dtype
    target.write_text(json.dumps(config, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
