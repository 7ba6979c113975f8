"""Converts tensors whose values differ between llama.cpp and transformers: linear attention, and norms of 1 + w.

Source: llama.cpp's convert_hf_to_gguf.py, the classes of Qwen3.5 and Gemma 3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from converters.tensors import TensorEntry, to_float32
from mlx_loopai.models.architectures import Architecture

Change = Callable[[np.ndarray], np.ndarray]
_DECAY, _KERNELS = ".linear_attn.A_log", ".linear_attn.conv1d.weight"


def in_gguf_form(entry: TensorEntry, architecture: Architecture) -> TensorEntry:
    """A tensor of transformers as llama.cpp has it: norms one higher, -exp(A_log), kernels (C, W) for (C, 1, W)."""
    if _is_higher(entry.name, architecture):
        return _changed(entry, lambda values: values + np.float32(1))
    if entry.name.endswith(_DECAY):
        return _changed(entry, lambda values: -np.exp(values))
    if entry.name.endswith(_KERNELS):
        channels, _, width = entry.shape
        return replace(entry, shape=(channels, width))
    return entry


def in_hf_form(entry: TensorEntry, architecture: Architecture) -> TensorEntry:
    """The inverse of `in_gguf_form`."""
    if _is_higher(entry.name, architecture):
        return _changed(entry, lambda values: values - np.float32(1))
    if entry.name.endswith(_DECAY):
        return _changed(entry, lambda values: np.log(-values))
    if entry.name.endswith(_KERNELS):
        return replace(entry, shape=hf_shape(entry.name, entry.shape))
    return entry


def hf_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in transformers of the tensor `name`, from its shape in a GGUF file."""
    return (shape[0], 1, *shape[1:]) if name.endswith(_KERNELS) else shape


def _is_higher(name: str, architecture: Architecture) -> bool:
    return bool(architecture.gguf_one_higher) and name.endswith(architecture.gguf_one_higher)


def _changed(entry: TensorEntry, change: Change) -> TensorEntry:
    def read_rows(start: int, stop: int) -> np.ndarray:
        return change(to_float32(entry.read_rows(start, stop), entry.dtype))

    return replace(entry, dtype="F32", read_rows=read_rows)
