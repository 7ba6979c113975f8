"""The text model's tensors out of a multimodal checkpoint, named as transformers names them in the text model alone.

mlx-lm's own folders of these models hold a few values otherwise: norms one higher, and the short convolution with its
axes in another order. They are read back as transformers has them.
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
# Towers for pictures and sounds, what leads from them to the text model, and predictors of several tokens at once.
_OTHER = re.compile(r"^(?:model\.)?(?:visual|vision_tower|audio_tower|multi_modal_projector|embed_vision)\.|^mtp\.")


def text_part(
    entries: Mapping[str, TensorEntry], architecture: Architecture
) -> tuple[dict[str, TensorEntry], tuple[TensorEntry, ...]]:
    """(the text model's entries, the others); all of them where the model is nothing else."""
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
    """(C, W, 1) where transformers has (C, 1, W); mlx-lm itself tells its own folders by this."""
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
