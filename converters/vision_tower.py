"""Reads the vision tower of a vision-language checkpoint, and writes it in MLX's or in transformers' layout.

Its tensors stay dense even where the text model is quantised: it would save little and cost accuracy on pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import mlx_loopai  # noqa: F401  # before mlx: on Linux it loads the fast BLAS

# isort: split
import numpy as np
from mlx.utils import tree_flatten

from converters.names import compare_tensors
from converters.tensors import CONFIG_NAMES, Checkpoint, TensorEntry
from mlx_loopai.models.architectures.vision_language import family_of
from mlx_loopai.models.vision.names import tower_name
from mlx_loopai.models.vision.settings import PatchSettings, vision_settings
from mlx_loopai.models.vision.tower import PATCH_KERNEL, Tower

_CLASSES = {
    "qwen2_vl": "Qwen2VLForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
}
# Settings of the preprocessing of pictures.
_PROCESSORS = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
_QUANTIZATION = ("quantization", "quantization_config")
# Permutations of the patch kernel's axes (D, C, F, P, P): MLX's convolution has the colours last.
_TO_MLX, _FROM_MLX = (0, 2, 3, 4, 1), (0, 4, 1, 2, 3)


@dataclass(frozen=True)
class VisionTower:
    """A tower as transformers has it. entries: named within the tower. whole: config.json of the model that has it."""

    family: str
    entries: tuple[TensorEntry, ...]
    names: tuple[str, ...]
    whole: Mapping[str, Any]
    files: tuple[Path, ...]

    def n_bytes(self, dtype: str) -> int:
        """Bytes of its tensors when stored as `dtype`."""
        return sum(entry.n_bytes(dtype) for entry in self.entries)

    def named(self, prefix: str, of_mlx: bool = False) -> list[TensorEntry]:
        """Its tensors with `prefix` before their names; the patch kernel as MLX has it where `of_mlx`."""
        found = [replace(entry, name=f"{prefix}{entry.name}") for entry in self.entries]
        kernel = f"{prefix}{PATCH_KERNEL}"
        return [_turned(entry, _TO_MLX) if of_mlx and entry.name == kernel else entry for entry in found]

    def huggingface_config(self, checkpoint: Checkpoint, dtype: str) -> dict[str, Any]:
        """config.json of the output as transformers reads it: the source's own, where nothing else was decided."""
        inner = {name: self._inner(name, checkpoint) for name in ("text_config", "vision_config") if name in self.whole}
        found = {key: value for key, value in self.whole.items() if key not in ("dtype", *_QUANTIZATION)}
        return (
            found
            | inner
            | {
                "model_type": self.family,
                "architectures": [_CLASSES[self.family]],
                "tie_word_embeddings": bool(checkpoint.config.get("tie_word_embeddings")),
                "torch_dtype": CONFIG_NAMES[dtype],
            }
        )

    def mlx_config(self, checkpoint: Checkpoint, dtype: str) -> dict[str, Any]:
        """The same as programs on MLX read it: of the older families with the text model's fields at the top."""
        found = self.huggingface_config(checkpoint, dtype)
        text = found.get("text_config")
        if self.family == "qwen3_vl" or not isinstance(text, Mapping):
            return found
        flat = {key: value for key, value in text.items() if key not in ("model_type", "architectures")}
        flat |= {key: value for key, value in found.items() if key != "text_config"}
        rope = flat.pop("rope_parameters", None)
        if isinstance(rope, Mapping):
            section = {"mrope_section": rope["mrope_section"]} if "mrope_section" in rope else {}
            flat |= {"rope_scaling": {"type": "mrope", **section}}
            flat |= {"rope_theta": rope["rope_theta"]} if "rope_theta" in rope else {}
        return flat

    def _inner(self, name: str, checkpoint: Checkpoint) -> dict[str, Any]:
        found = {key: value for key, value in self.whole[name].items() if key not in ("dtype", "torch_dtype")}
        if name == "text_config" and "tie_word_embeddings" in found:
            found["tie_word_embeddings"] = bool(checkpoint.config.get("tie_word_embeddings"))
        return found


@dataclass(frozen=True)
class Written:
    """What a folder is made of: the text model and what makes it see, a tower or the files of `vision add`."""

    text: Checkpoint
    tower: VisionTower | None = None
    added: tuple[Path, ...] = ()


def read_tower(checkpoint: Checkpoint) -> VisionTower | None:
    """The tower among the tensors that are no part of the text model; None where there is none that is read here.

    Raises: InputError for a tower that is quantised, lacks tensors, or is not what its configuration describes.
    """
    whole = checkpoint.whole
    family = None if whole is None else family_of(whole.get("model_type"))
    settings = None if whole is None else vision_settings(whole, checkpoint.source)
    if whole is None or family is None or settings is None:
        return None
    named = {inner: entry for entry in checkpoint.others if (inner := tower_name(entry.name)) is not None}
    entries = {name: replace(entry, name=name) for name, entry in named.items()}
    kernel = entries.get(PATCH_KERNEL)
    if kernel is not None and _has_colours_last(kernel, settings.patches):
        entries[PATCH_KERNEL] = _turned(kernel, _FROM_MLX)
    expected = {name: array.shape for name, array in tree_flatten(Tower(settings.tower, settings.patches).parameters())}
    shapes = {name: entry.shape for name, entry in entries.items()}
    if PATCH_KERNEL in shapes:  # ours is a matrix
        shapes[PATCH_KERNEL] = (shapes[PATCH_KERNEL][0], prod(shapes[PATCH_KERNEL][1:]))
    compare_tensors(shapes, expected, "its vision tower", f"{checkpoint.source}: the vision tower")
    files = (checkpoint.source / name for name in _PROCESSORS)
    return VisionTower(
        family=family,
        entries=tuple(entries.values()),
        names=tuple(entry.name for entry in named.values()),
        whole=whole,
        files=tuple(path for path in files if path.is_file()),
    )


def _has_colours_last(kernel: TensorEntry, patches: PatchSettings) -> bool:
    theirs = (3, patches.frames, patches.patch, patches.patch)
    return kernel.shape[1:] != theirs and kernel.shape[1:] == (*theirs[1:], 3)


def _turned(entry: TensorEntry, axes: Sequence[int]) -> TensorEntry:
    """The tensor with its axes in another order. It is small: each block is cut out of the whole."""
    shape = tuple(entry.shape[axis] for axis in axes)

    def read_rows(start: int, stop: int) -> np.ndarray:
        return np.ascontiguousarray(entry.load().transpose(axes)).reshape(-1, shape[-1])[start:stop]

    return replace(entry, shape=shape, read_rows=read_rows)
