"""The values that flow from a reader to a writer: named, lazy tensors and the checkpoint that holds them.

numpy has no bfloat16, so a BF16 block is an array of `uint16` that holds the raw bits. It is copied as it is and
widened exactly when arithmetic is needed; nothing is lost on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from mlx_loopai.errors import InputError
from mlx_loopai.language import tr

# One block of a tensor on its way through. It is read, checked, hashed and written while a core's cache holds it:
# blocks of 16 MB take twice as long (bench/convert_streaming.py).
BLOCK_BYTES = 4 << 20

STORAGE: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
# Additional types in quantised MLX folders.
PACKED: dict[str, np.dtype[Any]] = {"U32": np.dtype("<u4"), "U8": np.dtype("u1")}

# Unit roundoff (relative) and half the smallest subnormal (absolute) of rounding a float32 to the type.
ROUNDING = {"F32": (0.0, 0.0), "F16": (2.0**-11, 2.0**-25), "BF16": (2.0**-8, 2.0**-134)}

DTYPE_OPTIONS = {"fp32": "F32", "bf16": "BF16", "fp16": "F16"}
CONFIG_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class TensorEntry:
    """A named tensor that is read when asked for.

    It is seen as a matrix of `rows` rows of `row_length` values: the last axis is a row, the others are flattened.
    `read_rows(start, stop)` returns `(stop - start, row_length)` in the storage type of `dtype`.
    `origin` says where it comes from, for messages.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    read_rows: Callable[[int, int], np.ndarray]
    origin: str

    @property
    def is_matrix(self) -> bool:
        """Whether it is a matrix or a stack of experts' matrices, and so may be quantised."""
        stacked = len(self.shape) == 3 and ".switch_mlp." in self.name
        return self.name.endswith(".weight") and (len(self.shape) == 2 or stacked)

    @property
    def row_length(self) -> int:
        return self.shape[-1] if self.shape else 1

    @property
    def rows(self) -> int:
        return prod(self.shape[:-1])

    @property
    def n_elements(self) -> int:
        return prod(self.shape)

    def n_bytes(self, dtype: str | None = None) -> int:
        """Bytes of the whole tensor when stored as `dtype` (default: its own)."""
        return self.n_elements * STORAGE[dtype or self.dtype].itemsize

    def spans(self, block_bytes: int = BLOCK_BYTES) -> Iterator[tuple[int, int]]:
        """Row ranges `(start, stop)` that cover the tensor; a block is at most `block_bytes` as float32, or one row."""
        step = max(1, block_bytes // max(1, 4 * self.row_length))
        for start in range(0, self.rows, step):
            yield start, min(start + step, self.rows)

    def load(self) -> np.ndarray:
        """The whole tensor, in its own shape and storage type."""
        return self.read_rows(0, self.rows).reshape(self.shape)


@dataclass(frozen=True)
class Checkpoint:
    """A model as a reader found it: Hugging Face configuration and names, tensors not read yet.

    `dtype` is the type to write when the user names none. `files` are those that tensors and configuration come from.
    `tokenizer_files` is empty when the source has no tokenizer of its own; `vocabulary` holds the token strings by id
    when the source lists them (GGUF), and `gguf_metadata` all that such a file says about itself. `raw` is config.json
    as the folder has it, None for GGUF; `packed`: MLX quantised it. `unread` names the tensors that nothing reads,
    `notes` says what was taken otherwise than the files say. `others` are the tensors that are no part of the text
    model, and `whole` the configuration of the model that has them.
    """

    source: Path
    config: dict[str, Any]
    generation_config: dict[str, Any] | None
    entries: tuple[TensorEntry, ...]
    dtype: str
    files: tuple[Path, ...] = ()
    tokenizer_files: tuple[Path, ...] = ()
    vocabulary: tuple[str, ...] | None = None
    gguf_metadata: Mapping[str, Any] | None = None
    raw: Mapping[str, Any] | None = None
    packed: bool = False
    unread: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    others: tuple[TensorEntry, ...] = ()
    whole: Mapping[str, Any] | None = None


def to_float32(block: np.ndarray, dtype: str) -> np.ndarray:
    """`block`, stored as `dtype`, as float32. Exact: every stored type is a subset of float32."""
    if dtype == "BF16":
        return (block.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return block.astype(np.float32, copy=False)


def cast(block: np.ndarray, source: str, target: str) -> np.ndarray:
    """`block`, stored as `source`, stored as `target`, rounded to nearest, ties to even. Values must be finite."""
    if source == target:
        return block
    wide = to_float32(block, source)
    if target == "F32":
        return wide
    if target == "F16":
        with np.errstate(over="ignore"):
            return wide.astype(np.float16)
    bits = wide.view(np.uint32)
    nearest_even = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return ((bits + nearest_even) >> np.uint32(16)).astype(np.uint16)


def same_values(one: TensorEntry, other: TensorEntry) -> bool:
    """Whether both hold the same numbers in the same shape, whatever they are stored as."""
    if one.shape != other.shape:
        return False
    return all(
        np.array_equal(
            to_float32(one.read_rows(start, stop), one.dtype), to_float32(other.read_rows(start, stop), other.dtype)
        )
        for start, stop in one.spans()
    )


def is_finite(block: np.ndarray, dtype: str) -> bool:
    """Whether every value of `block`, stored as `dtype`, is neither NaN nor infinite."""
    if block.size == 0:
        return True
    if dtype == "BF16":
        # Compared as bits: NaN and infinity are the largest numbers, unsigned if negative, signed if positive.
        return bool(block.max() < 0xFF80 and block.view(np.int16).max() < 0x7F80)
    return bool(np.isfinite(block).all())


def cast_checked(entry: TensorEntry, start: int, stop: int, target: str) -> np.ndarray:
    """Rows `[start, stop)` of `entry` stored as `target`.

    Raises:
        InputError: a value is NaN or infinite, or too large for `target`.
    """
    block = entry.read_rows(start, stop)
    if not is_finite(block, entry.dtype):
        raise InputError(
            tr(
                "{origin}: holds NaN or infinite values, so the checkpoint is damaged; get a fresh copy of it",
                origin=entry.origin,
            )
        )
    stored = cast(block, entry.dtype, target)
    if stored is not block and not is_finite(stored, target):
        largest = float(np.abs(to_float32(block, entry.dtype)).max())
        raise InputError(
            tr(
                "{origin}: the value {largest:.3g} does not fit into {config_names}; use `dtype` bf16 or `dtype` fp32",
                origin=entry.origin,
                largest=largest,
                config_names=CONFIG_NAMES[target],
            )
        )
    return stored
