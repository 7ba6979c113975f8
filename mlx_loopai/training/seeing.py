"""Prepares a run with pictures: their features in a memory-mapped file, and the projector that is to be trained."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_loopai.config import VisionOptions
from mlx_loopai.data.images import Picture
from mlx_loopai.data.shelf import Shelf, distinct_pictures
from mlx_loopai.data.sight import Sight
from mlx_loopai.errors import InputError
from mlx_loopai.files import whole_file
from mlx_loopai.language import tr
from mlx_loopai.models.adapters import WEIGHTS_FILE, find_adapter
from mlx_loopai.models.load import LoadedModel
from mlx_loopai.models.vision.part import VisionPart
from mlx_loopai.models.vision.patches import Grid
from mlx_loopai.models.vision.projector import PROJECTOR, projector_of, teach_projector
from mlx_loopai.progress import Advance
from mlx_loopai.runs.artifact_cache import kept_path
from mlx_loopai.runs.context import RunContext
from mlx_loopai.training.alignment import align_projector


def shelve_pictures(context: RunContext) -> None:
    """Compute the features of all pictures of the run's rows, unless an earlier run has; then free the encoder.

    Raises: InputError where options do not go together with pictures, or a picture cannot be read.
    """
    config, reader = context.config, context.reader
    if reader.sight is None or reader.shelf is not None:
        return  # rows with pictures are refused, or their features are known
    pictures = distinct_pictures(context.rows.all)
    if not pictures:
        return
    for name, on in (
        ("selection.kind", config.selection.kind != "none"),
        ("preference.objective", config.preference.is_on),
    ):
        if on:
            raise InputError(tr("{name}: rows with pictures are not learnt with it; set it to none", name=name))
    if config.trains_weights:
        raise InputError(tr("train.method: rows with pictures are learnt with lora, not with full; set it to lora"))
    vision, sight = context.loaded.vision, reader.sight
    assert vision is not None  # without them rows with pictures are refused when they are encoded
    assert sight is not None
    places: dict[str, tuple[int, Grid]] = {}
    count = 0
    for digest, picture in pictures.items():
        grid = sight.grid(picture)
        places[digest] = (count, grid)
        count += grid.features
    kept = _feature_file(context.loaded, list(pictures), config.vision.max_pixels)
    if not kept.is_file():
        context.listener.stage(tr("reading pictures"), len(pictures))
        _write_features(list(pictures.values()), vision, sight, kept, count, context.listener.advance)
        vision.close()
    stored = np.load(kept, mmap_mode="r")
    layers = stored.shape[1] - 1
    reader.shelf = Shelf(sight, places, stored[:, 0], stored[:, 1:] if layers else None)


def prepare_projector(model: nn.Module, options: VisionOptions, sees: bool) -> None:
    """Let a run train the projector, from where `vision.start` left it. sees: whether its rows have pictures.

    Raises: InputError when `vision` asks for a projector and the model has none, or `vision.start` holds none that
    fits.
    """
    if options.trains == "projector" or options.start or options.align_steps:
        teach_projector(model, tr("`vision`: a projector is to be taught"))
    projector = projector_of(model)
    if projector is None:
        return
    if options.start:
        folder = find_adapter(Path(options.start))
        arrays = {
            name.removeprefix(f"{PROJECTOR}."): array
            for name, array in mx.load(str(folder / WEIGHTS_FILE)).items()
            if name.startswith(f"{PROJECTOR}.")
        }
        try:
            projector.load_weights(list(arrays.items()), strict=True)
        except ValueError:
            raise InputError(
                tr(
                    "vision.start {folder}: holds no projector that fits this model; give a run that taught one",
                    folder=folder,
                )
            ) from None
    if sees:
        projector.unfreeze()


def begin_projector(context: RunContext) -> None:
    """Align the projector with the words of the answers in the run's rows, where `vision.align_steps` asks for it.

    Raises: InputError where it begins with one that is taught.
    """
    config, steps = context.config, context.config.vision.align_steps
    if not steps or context.reader.shelf is None:
        return
    if config.vision.start:
        raise InputError(
            tr(
                "vision.align_steps {steps}: vision.start begins with a projector that is taught; leave one out",
                steps=steps,
            )
        )
    context.listener.stage(tr("aligning pictures with words"), steps)
    rows = [row for some in context.rows.sources.values() for row in some if row.pictures]
    loaded = context.loaded
    no_words = loaded.tokenizer.all_special_ids
    align_projector(loaded.model, rows, no_words, steps, config.train.seed, context.listener.advance)


def _feature_file(loaded: LoadedModel, digests: list[str], max_pixels: int) -> Path:
    return kept_path("pictures", loaded, [digests, max_pixels], ".npy")


def _write_features(
    pictures: list[Picture], vision: VisionPart, sight: Sight, path: Path, count: int, on_progress: Advance
) -> None:
    """Write float32 [M, 1 + L, D]: each of M features, then what it adds to the states after the first L blocks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    place = 0
    with whole_file(path) as temporary:
        stored: np.ndarray | None = None
        for number, picture in enumerate(pictures, start=1):
            found = vision.features(*sight.pixels(picture))
            parts = [found.features[None]] + ([] if found.deepstack is None else [found.deepstack])
            whole = np.array(mx.concatenate(parts).swapaxes(0, 1).astype(mx.float32))
            if stored is None:
                stored = np.lib.format.open_memmap(temporary, "w+", np.float32, (count, *whole.shape[1:]))
            stored[place : place + len(whole)] = whole
            place += len(whole)
            on_progress(number)
        assert isinstance(stored, np.memmap)
        stored.flush()
