"""The GGUF header, versions 2 and 3.

The `gguf` package reads headers too, but it trusts them: a length of 2^60 makes its loops run for ever, and every
string of a 150,000-word vocabulary becomes several array objects. Here each number is checked against the file's size
before use, and long arrays are only located. Source: the GGUF specification in ggml (docs/gguf.md).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from converters.readers.byte_ranges import file_size
from mlx_loopai.errors import InputError
from mlx_loopai.language import tr

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_DEFAULT_ALIGNMENT = 32
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
# Far above any real model; they only keep a hostile file from costing minutes.
_MAX_KEYS, _MAX_TENSORS, _MAX_STRINGS, _MAX_KEY_BYTES = 100_000, 1_000_000, 4_000_000, 65_535


@dataclass(frozen=True)
class GgufTensor:
    """Where a tensor lies. `shape` is in numpy's order (rows first); `offset` counts from the start of the file."""

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    offset: int
    n_bytes: int


@dataclass(frozen=True)
class GgufHeader:
    """Metadata (arrays of strings as tuples, of numbers as numpy arrays) and tensors in file order."""

    metadata: Mapping[str, Any]
    tensors: tuple[GgufTensor, ...]


class _Cursor:
    """A position in the file that cannot leave it."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data, self.path, self.position, self.end = data, path, 0, len(data)

    def fail(self, what: str) -> InputError:
        return InputError(
            tr(
                "{path}: {what} (at byte {position}); the file is damaged, get a fresh copy of it",
                path=self.path,
                what=what,
                position=self.position,
            )
        )

    def skip(self, count: int) -> int:
        start = self.position
        if count > self.end - start:
            raise self.fail(f"needs {count} more bytes but the file ends after {self.end - start}")
        self.position = start + count
        return start

    def scalar(self, form: str) -> Any:
        return struct.unpack_from(form, self.data, self.skip(struct.calcsize(form)))[0]

    def string(self, limit: int | None = None) -> str:
        length = self.scalar("<Q")
        if limit is not None and length > limit:
            raise self.fail(f"a name has {length} bytes")
        start = self.skip(length)
        try:
            return self.data[start : start + length].decode("utf-8")
        except UnicodeDecodeError:
            raise self.fail("a string is not UTF-8") from None


def _array(cursor: _Cursor) -> tuple[str, ...] | np.ndarray:
    kind, count = cursor.scalar("<I"), cursor.scalar("<Q")
    if kind in _SCALARS:
        form = _SCALARS[kind]
        start = cursor.skip(count * struct.calcsize(form))
        if count > _MAX_STRINGS:
            raise cursor.fail(f"an array claims {count} numbers")
        # A copy: the file is closed soon.
        return np.frombuffer(cursor.data, np.dtype(form), count, start).copy()
    if kind != _STRING:
        raise cursor.fail(f"an array holds values of the unknown type {kind}")
    if count > min(_MAX_STRINGS, (cursor.end - cursor.position) // 8):
        raise cursor.fail(f"an array claims {count} strings")
    return tuple(cursor.string() for _ in range(count))


def _metadata(cursor: _Cursor, count: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for _ in range(count):
        key, kind = cursor.string(_MAX_KEY_BYTES), cursor.scalar("<I")
        if key in metadata:
            raise cursor.fail(f"the key {key[:80]!r} occurs twice")
        if kind == _STRING:
            metadata[key] = cursor.string()
        elif kind == _ARRAY:
            metadata[key] = _array(cursor)
        elif kind in _SCALARS:
            metadata[key] = cursor.scalar(_SCALARS[kind])
        else:
            raise cursor.fail(f"the key {key[:80]!r} has the unknown type {kind}")
    return metadata


def _tensor(cursor: _Cursor) -> GgufTensor:
    """One tensor info; its offset still counts from the start of the data."""
    name, n_dims = cursor.string(_MAX_KEY_BYTES), cursor.scalar("<I")
    if not 1 <= n_dims <= 4:
        raise cursor.fail(f"the tensor {name[:80]!r} has {n_dims} dimensions")
    dims = [cursor.scalar("<Q") for _ in range(n_dims)]
    number, offset = cursor.scalar("<I"), cursor.scalar("<Q")
    try:
        kind = GGMLQuantizationType(number)
    except ValueError:
        raise cursor.fail(f"the tensor {name[:80]!r} has the unknown type {number}") from None
    block, block_bytes = GGML_QUANT_SIZES[kind]
    if dims[0] % block:
        raise cursor.fail(f"the tensor {name[:80]!r} has rows of {dims[0]} values, not a multiple of {block}")
    return GgufTensor(
        name, shape=tuple(reversed(dims)), kind=kind, offset=offset, n_bytes=prod(dims) // block * block_bytes
    )


def _alignment(metadata: Mapping[str, Any], cursor: _Cursor) -> int:
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20 or alignment & (alignment - 1):
        raise cursor.fail(f"general.alignment is {alignment!r}, not a power of two")
    return alignment


def _placed(tensors: list[GgufTensor], cursor: _Cursor, alignment: int) -> tuple[GgufTensor, ...]:
    """The tensors with offsets from the start of the file, checked: inside the file, aligned, apart, unique."""
    start = -(-cursor.position // alignment) * alignment
    placed: dict[str, GgufTensor] = {}
    previous_end = 0
    for tensor in sorted(tensors, key=lambda tensor: tensor.offset):
        if tensor.name in placed:
            raise cursor.fail(f"the tensor {tensor.name[:80]!r} occurs twice")
        if tensor.offset % alignment or tensor.offset < previous_end:
            raise cursor.fail(f"the tensor {tensor.name[:80]!r} lies at the wrong offset {tensor.offset}")
        previous_end = tensor.offset + tensor.n_bytes
        if start + previous_end > cursor.end:
            raise cursor.fail(f"the tensor {tensor.name[:80]!r} ends at {start + previous_end}, after the file")
        placed[tensor.name] = GgufTensor(
            tensor.name, shape=tensor.shape, kind=tensor.kind, offset=start + tensor.offset, n_bytes=tensor.n_bytes
        )
    return tuple(placed.values())


def read_header(path: Path) -> GgufHeader:
    """The header of a GGUF file.

    Raises:
        InputError: not GGUF, an unsupported version or byte order, truncated, or a header that lies.
    """
    size = file_size(path)
    if size < 24:
        raise InputError(
            tr("{path}: has {size} bytes, too few for a GGUF file; get a fresh copy of it", path=path, size=size)
        )
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:4] != _MAGIC:
            raise InputError(
                tr(
                    "{path}: is not a GGUF file (it begins with {start!r}); give a GGUF or a model folder",
                    path=path,
                    start=data[:4],
                )
            )
        cursor = _Cursor(data, path)
        cursor.skip(4)
        version = cursor.scalar("<I")
        if version not in _VERSIONS:
            order = "is big-endian" if version & 0xFFFF == 0 else f"has the version {version}"
            raise InputError(
                tr("{path}: {order}; little-endian GGUF of the versions 2 and 3 is supported", path=path, order=order)
            )
        n_tensors, n_keys = cursor.scalar("<Q"), cursor.scalar("<Q")
        if n_tensors > _MAX_TENSORS or n_keys > _MAX_KEYS:
            raise cursor.fail(f"the header claims {n_tensors} tensors and {n_keys} keys")
        metadata = _metadata(cursor, n_keys)
        tensors = [_tensor(cursor) for _ in range(n_tensors)]
        return GgufHeader(metadata, _placed(tensors, cursor, _alignment(metadata, cursor)))
