"""An image encoder added to any text model: the folder `vision/` in the model's folder, written by `vision add`.

The text model's own files do not change, so every other program still opens the folder as the text model.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from mlx_loopai.errors import InputError
from mlx_loopai.files import refuse_links_out
from mlx_loopai.language import tr
from mlx_loopai.models.vision import efficientnet
from mlx_loopai.models.vision.part import VisionPart
from mlx_loopai.models.vision.patches import Grid
from mlx_loopai.models.vision.projector import put_projector
from mlx_loopai.models.vision.settings import PatchSettings, SquareSettings, TowerSettings
from mlx_loopai.models.vision.tower import PictureFeatures, load_tower

FOLDER, SETTINGS_FILE = "vision", "config.json"
ENCODER_FILE, PROJECTOR_FILE = "encoder.safetensors", "projector.safetensors"
PATCHES, EFFICIENTNET, TOWER = "patches", "efficientnet-lite0", "tower"
ENCODERS = (PATCHES, EFFICIENTNET, TOWER)


@dataclass(frozen=True)
class AddedSettings:
    """The added encoder, the width of its features, the pixels it reads, and the tokens that stand for a picture.

    scale: of the projector's features, see `Projector`.
    """

    encoder: str
    width: int
    scale: float
    patches: PatchSettings | SquareSettings
    image_token: int
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    tower: TowerSettings | None = None
    # A text model has one rotary position a token.
    sections: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}

    @staticmethod
    def read(folder: Path) -> AddedSettings | None:
        """Those of a model folder; None where no encoder was added. Raises: InputError for a file that is damaged."""
        path = folder / FOLDER / SETTINGS_FILE
        if not path.is_file():
            return None
        refuse_links_out(folder / FOLDER, (SETTINGS_FILE, ENCODER_FILE, PROJECTOR_FILE))
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            kind = SquareSettings if "rows" in found["patches"] else PatchSettings
            tower = found.get("tower")
            settings = AddedSettings(
                encoder=str(found["encoder"]),
                width=int(found["width"]),
                scale=float(found["scale"]),
                patches=kind(**_tuples(found["patches"])),
                image_token=int(found["image_token"]),
                before=tuple(map(int, found["before"])),
                after=tuple(map(int, found["after"])),
                tower=None if tower is None else TowerSettings(**_tuples(tower)),
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(
                tr(
                    "{path}: damaged ({reason}); add the encoder again",
                    path=path,
                    reason=" ".join(str(error).split())[:200],
                )
            ) from None
        if settings.encoder not in ENCODERS:
            raise InputError(
                tr(
                    "{path}: the encoder {encoder!r} is not known; {encoders} are",
                    path=path,
                    encoder=settings.encoder[:40],
                    encoders=", ".join(ENCODERS),
                )
            )
        return settings


def added_files(folder: Path) -> tuple[Path, ...]:
    """The files of the encoder that was added to the model in `folder`; none where none was.

    Raises: InputError for one that is damaged or not whole.
    """
    settings = AddedSettings.read(folder)
    if settings is None:
        return ()
    names = (SETTINGS_FILE, PROJECTOR_FILE, *(() if settings.encoder == PATCHES else (ENCODER_FILE,)))
    files = tuple(folder / FOLDER / name for name in names)
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise InputError(
            tr(
                "{folder}: {missing} is missing; add the encoder again",
                folder=folder / FOLDER,
                missing=", ".join(missing),
            )
        )
    return files


class AddedVision(VisionPart):
    """The encoder of a folder to which one was added. Its features are as wide as its own, a projector's input."""

    def __init__(self, settings: AddedSettings, path: Path, dtype: mx.Dtype) -> None:
        super().__init__(settings, path, dtype)
        self._added = settings

    @cached_property
    def encoder(self) -> Callable[[npt.NDArray[Any], Grid], mx.array]:
        """Pixels and their grid -> features (N, W). Raises: InputError for weights that are missing or do not fit."""
        settings = self._added
        if settings.encoder == PATCHES:
            return square_patches
        weights = _arrays(self._path / FOLDER / ENCODER_FILE)
        if settings.encoder == EFFICIENTNET:
            network = efficientnet.EfficientNetLite0(weights)
            return lambda pixels, grid: pooled(network(mx.array(pixels)), grid).reshape(-1, efficientnet.WIDTH)
        assert settings.tower is not None
        assert isinstance(settings.patches, PatchSettings)
        try:
            tower = load_tower(settings.tower, settings.patches, weights, self._dtype)
        except ValueError as error:
            raise InputError(
                tr("{path}: the encoder: {reason}", path=self._path, reason=" ".join(str(error).split())[:300])
            ) from None
        return lambda pixels, grid: tower(mx.array(pixels), grid).features

    def features(self, patches: npt.NDArray[Any], grid: Grid) -> PictureFeatures:
        found = self.encoder(patches, grid).astype(mx.float32)
        mx.eval(found)
        return PictureFeatures(found, grid)

    def close(self) -> None:
        self.__dict__.pop("encoder", None)
        super().close()

    def put_projector(self, model: nn.Module) -> None:
        """Let `model` read this encoder's features. Raises: InputError for a projector that does not fit it."""
        weights = _arrays(self._path / FOLDER / PROJECTOR_FILE)
        try:
            put_projector(model, self._added.width, self._added.scale, weights)
        except ValueError as error:
            raise InputError(
                tr("{path}: the projector: {reason}", path=self._path, reason=" ".join(str(error).split())[:300])
            ) from None


def square_patches(pixels: npt.NDArray[np.uint8], grid: Grid) -> mx.array:
    """Features (N, P P 3 + rows + columns) of a picture (S, S, 3): each square's pixels, from -1 to 1, and its place.

    There are no weights; the projector does the rest. Source: Fuyu-8B (Adept, 2023), whose only encoder is a linear
    layer on patches. Row and column as one-hot vectors are ours: the text model need not learn to count tokens.
    """
    side = pixels.shape[0] // grid.rows
    blocks = pixels.reshape(grid.rows, side, grid.columns, side, 3).swapaxes(1, 2)
    colours = blocks.reshape(grid.features, -1).astype(np.float32) / 127.5 - 1
    rows, columns = np.divmod(np.arange(grid.features), grid.columns)
    places = [np.eye(count, dtype=np.float32)[at] for count, at in ((grid.rows, rows), (grid.columns, columns))]
    return mx.array(np.concatenate([colours, *places], axis=1))


def pooled(features: mx.array, grid: Grid) -> mx.array:
    """Features (H, W, C) -> (rows, columns, C): the mean of each of `grid`'s regions, which overlap where they must.

    Source: PyTorch's adaptive average pooling: region i of n reaches from floor(i H / n) to ceil((i + 1) H / n).
    """
    for axis, count in enumerate((grid.rows, grid.columns)):
        size = features.shape[axis]
        means = []
        for place in range(count):
            region = mx.arange(place * size // count, -(-(place + 1) * size // count))
            means.append(mx.take(features, region, axis=axis).mean(axis=axis, keepdims=True))
        features = mx.concatenate(means, axis=axis)
    return features


def square_width(side: int, rows: int) -> int:
    """How many numbers `square_patches` makes of a square."""
    return 3 * (side // rows) ** 2 + 2 * rows


def _arrays(path: Path) -> dict[str, mx.array]:
    try:
        return dict(mx.load(str(path)))
    except (RuntimeError, ValueError) as error:
        raise InputError(
            tr(
                "{path}: cannot be read: {reason}; add the encoder again",
                path=path,
                reason=" ".join(str(error).split())[:200],
            )
        ) from None


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
