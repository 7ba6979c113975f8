"""Extracts the text model from a multimodal checkpoint, with the names that transformers gives a text-only model.

mlx-lm's folders of these models differ in a few tensors: norms are one higher, and the short convolution has its axes
in another order. Both are converted to transformers' form.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from converters.tensors import TensorEntry, to_float32
from mlx_loopai.models.architectures import Architecture

# The model within a multimodal one, as transformers and as mlx-lm call it.
_INNER = re.compile(r"^(?:model\.language_model|language_model\.model)\.")
_HEAD = re.compile(r"^language_model\.lm_head\.")
# Vision and audio towers, their projectors, and multi-token prediction heads.
_OTHER = re.compile(r"^(?:model\.)?(?:visual|vision_tower|audio_tower|multi_modal_projector|embed_vision)\.|^mtp\.")


def text_part(
    entries: Mapping[str, TensorEntry], architecture: Architecture
) -> tuple[dict[str, TensorEntry], tuple[TensorEntry, ...]]:
    """(the text model's entries, the others); a text-only model has no others."""
    if architecture.text_type is None and not any(_OTHER.match(name) for name in entries):
        return dict(entries), ()
    kept: dict[str, TensorEntry] = {}
    for entry in entries.values():
        if not _OTHER.match(entry.name):
            name = _HEAD.sub("lm_head.", _INNER.sub("model.", entry.name))
            kept[name] = replace(entry, name=name)
    convolutions = [entry for name, entry in kept.items() if name.endswith(".conv1d.weight")]
    if any(_is_mlx_lms(entry) for entry in convolutions):
        kept = {name: _given_back(entry, architecture) for name, entry in kept.items()}
    return kept, tuple(entry for name, entry in entries.items() if _OTHER.match(name))


def _is_mlx_lms(convolution: TensorEntry) -> bool:
    """Whether its layout is mlx-lm's: (C, W, 1) instead of (C, 1, W). mlx-lm recognises its folders by this too."""
    return len(convolution.shape) == 3 and convolution.shape[-1] == 1 and convolution.shape[1] > 1


def _given_back(entry: TensorEntry, architecture: Architecture) -> TensorEntry:
    if entry.name.endswith(".conv1d.weight") and _is_mlx_lms(entry):
        channels, width, _ = entry.shape

        def read_kernels(start: int, stop: int) -> np.ndarray:
            return entry.read_rows(start * width, stop * width).reshape(-1, width)

        return replace(entry, shape=(channels, 1, width), read_rows=read_kernels)
    if entry.name.endswith(architecture.mlx_one_higher):

        def read_norm(start: int, stop: int) -> np.ndarray:
            return to_float32(entry.read_rows(start, stop), entry.dtype) - np.float32(1)

        return replace(entry, dtype="F32", read_rows=read_norm)
    return entry
