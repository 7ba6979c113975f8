"""A GGUF file as a checkpoint in Hugging Face names; quantised tensors become float32 block by block."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from converters import names
from converters.gguf_configuration import from_gguf
from converters.gguf_values import hf_shape, in_hf_form
from converters.readers.byte_ranges import read_bytes
from converters.readers.gguf_header import GgufTensor, read_header
from converters.row_order import hf_row_order, of_columns, reordered
from converters.tensors import STORAGE, Checkpoint, TensorEntry, to_float32
from mlx_loopai.errors import InputError, all_problems
from mlx_loopai.language import tr
from mlx_loopai.models.architectures import ARCHITECTURES

# These need no arithmetic and keep their bits.
_PLAIN = {GGMLQuantizationType.F32: "F32", GGMLQuantizationType.F16: "F16", GGMLQuantizationType.BF16: "BF16"}
ROPE_FACTORS = "rope_freqs.weight"


def _check_kinds(tensors: tuple[GgufTensor, ...], path: Path) -> None:
    """Refuse before anything is written what the `gguf` package cannot dequantise."""
    unknown = []
    for kind in {tensor.kind for tensor in tensors} - _PLAIN.keys():
        try:
            gguf.dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
        except NotImplementedError:
            unknown.append(kind.name)
    if unknown:
        raise InputError(
            tr(
                "{path}: tensors of the type {problems} cannot be dequantised; use another export of the model, "
                "such as F16, Q8_0 or Q4_K_M",
                path=path,
                problems=all_problems(sorted(unknown)),
            )
        )


def _reader(path: Path, tensor: GgufTensor) -> Callable[[int, int], np.ndarray]:
    row_length = tensor.shape[-1]
    block, block_bytes = GGML_QUANT_SIZES[tensor.kind]
    row_bytes = row_length // block * block_bytes

    def read_rows(start: int, stop: int) -> np.ndarray:
        raw = read_bytes(path, tensor.offset + start * row_bytes, (stop - start) * row_bytes)
        if tensor.kind in _PLAIN:
            return raw.view(STORAGE[_PLAIN[tensor.kind]]).reshape(stop - start, row_length)
        # A damaged scale may be infinite; the writer refuses such values with the tensor's name.
        with np.errstate(all="ignore"):
            return gguf.dequantize(raw.reshape(stop - start, row_bytes), tensor.kind)

    return read_rows


def _same_bytes(path: Path, one: GgufTensor, other: GgufTensor) -> bool:
    if (one.kind, one.shape) != (other.kind, other.shape):
        return False
    step = 16 << 20
    return all(
        np.array_equal(
            read_bytes(path, one.offset + done, min(step, one.n_bytes - done)),
            read_bytes(path, other.offset + done, min(step, one.n_bytes - done)),
        )
        for done in range(0, one.n_bytes, step)
    )


def _vocabulary(metadata: Mapping[str, Any]) -> tuple[str, ...] | None:
    tokens = metadata.get("tokenizer.ggml.tokens")
    return tokens if isinstance(tokens, tuple) else None


def _generation_config(metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    """Where generation stops. Qwen's chat models end a turn with one token and a text with `<|endoftext|>`."""
    vocabulary = _vocabulary(metadata) or ()
    candidates = [metadata.get(f"tokenizer.ggml.{key}_token_id") for key in ("eos", "eot")]
    if "<|endoftext|>" in vocabulary:
        candidates.append(vocabulary.index("<|endoftext|>"))
    ends = list(dict.fromkeys(token for token in candidates if isinstance(token, int)))
    if not ends:
        return None
    config: dict[str, Any] = {"eos_token_id": ends}
    for name, key in (("bos_token_id", "bos"), ("pad_token_id", "padding")):
        if isinstance(metadata.get(f"tokenizer.ggml.{key}_token_id"), int):
            config[name] = metadata[f"tokenizer.ggml.{key}_token_id"]
    return config


def _renamed(tensors: tuple[GgufTensor, ...], architecture: names.Architecture, path: Path) -> dict[str, GgufTensor]:
    """The tensors by their Hugging Face names."""
    found: dict[str, GgufTensor] = {}
    unknown = []
    for tensor in tensors:
        name = names.hf_name(tensor.name, architecture)
        if name is not None:
            found[name] = tensor
        elif tensor.name != ROPE_FACTORS:
            unknown.append(repr(tensor.name[:80]))
    if unknown:
        raise InputError(
            tr(
                "{path}: tensors that do not belong to {model_type}: {problems}",
                path=path,
                model_type=architecture.model_type,
                problems=all_problems(unknown, limit=4),
            )
        )
    return found


def _rope_factors(tensors: tuple[GgufTensor, ...], path: Path) -> np.ndarray | None:
    for tensor in tensors:
        if tensor.name == ROPE_FACTORS and tensor.kind in _PLAIN:
            values = _reader(path, tensor)(0, prod(tensor.shape[:-1]))
            return to_float32(values, _PLAIN[tensor.kind]).ravel()
    return None


def _entry(name: str, tensor: GgufTensor, config: Mapping[str, Any], path: Path) -> TensorEntry:
    read_rows = _reader(path, tensor)
    order = hf_row_order(name, config)
    if order is not None:
        read_rows = reordered(read_rows, order, of_columns(name, tensor.shape))
    entry = TensorEntry(
        name, tensor.shape, dtype=_PLAIN.get(tensor.kind, "F32"), read_rows=read_rows, origin=f"{path}: {tensor.name}"
    )
    return in_hf_form(entry, ARCHITECTURES[config["model_type"]])


def read_gguf(path: Path) -> Checkpoint:
    """The checkpoint in a GGUF file; only its header is read, and the head when it may be a copy of the embedding.

    A head that differs from the embedding stays a tensor of its own. Quantised files are written as bf16 unless the
    user says otherwise.

    Raises:
        InputError: the file is damaged, only a part, or its architecture or a tensor type is not supported.
    """
    header = read_header(path)
    architecture = names.gguf_architecture(header.metadata.get("general.architecture"), str(path))
    if header.metadata.get("split.count", 0) not in (0, 1):
        raise InputError(
            tr("{path}: is one part of a split GGUF; join the parts first with llama-gguf-split", path=path)
        )
    tensors = _renamed(header.tensors, architecture, path)
    if architecture.embedding not in tensors:
        raise InputError(
            tr("{path}: has no token_embd.weight; the file is incomplete, get a fresh copy of it", path=path)
        )
    _check_kinds(header.tensors, path)
    unread: tuple[str, ...] = ()
    embedding, head = tensors[architecture.embedding], tensors.get(architecture.head)
    if not architecture.always_own_head and head is not None and _same_bytes(path, embedding, head):
        unread = (tensors.pop(architecture.head).name,)
    shapes = {name: hf_shape(name, tensor.shape) for name, tensor in tensors.items()}
    config = from_gguf(header.metadata, shapes, _rope_factors(header.tensors, path), str(path))
    names.check_tensors(shapes, config, str(path))
    largest = max(tensors.values(), key=lambda tensor: tensor.n_bytes)
    return Checkpoint(
        source=path,
        config=config,
        generation_config=_generation_config(header.metadata),
        entries=tuple(_entry(name, tensor, config, path) for name, tensor in tensors.items()),
        dtype=_PLAIN.get(largest.kind, "BF16"),
        files=(path,),
        vocabulary=_vocabulary(header.metadata),
        gguf_metadata=header.metadata,
        unread=unread,
    )
