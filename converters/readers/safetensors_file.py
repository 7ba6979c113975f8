"""The safetensors format: 8 bytes header length, a JSON header, the data.

Source: https://github.com/huggingface/safetensors (Format). Every number of the header is checked against the file's
size before it is used, so a damaged or hostile file costs neither memory nor a crash.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from converters.json_files import parse_object
from converters.readers.byte_ranges import file_size, read_bytes
from converters.tensors import PACKED, STORAGE, TensorEntry
from mlx_loopai.errors import InputError
from mlx_loopai.language import tr

# The limit that the format's own library has.
MAX_HEADER_BYTES = 100_000_000
# Far above any model's, experts counted one by one.
_MAX_TENSORS = 300_000
_KNOWN = STORAGE | PACKED


def _header(path: Path) -> tuple[dict[str, Any], int, int]:
    """The parsed header, where the data begin, and where the file ends."""
    size = file_size(path)
    if size < 8:
        raise InputError(
            tr("{path}: has {size} bytes, too few for a safetensors file; get a fresh copy of it", path=path, size=size)
        )
    length = int(read_bytes(path, 0, 8).view("<u8")[0])
    if length > min(size - 8, MAX_HEADER_BYTES):
        raise InputError(
            tr(
                "{path}: says that its header has {length} bytes but the file has {size}; it is truncated or not "
                "a safetensors file, get a fresh copy of it",
                path=path,
                length=length,
                size=size,
            )
        )
    text = read_bytes(path, 8, length).tobytes()
    if text.count(b'"data_offsets"') > _MAX_TENSORS:
        raise InputError(
            tr(
                "{path}: its header lists more than {max_tensors} tensors, which no model has",
                path=path,
                max_tensors=_MAX_TENSORS,
            )
        )
    return parse_object(text, f"{path}: header"), 8 + length, size


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _entry_problem(info: object, data_bytes: int) -> str | None:
    """What is wrong with one tensor of the header, or None."""
    if not isinstance(info, dict) or not {"dtype", "shape", "data_offsets"} <= info.keys():
        return "lacks dtype, shape or data_offsets"
    dtype, shape, offsets = info["dtype"], info["shape"], info["data_offsets"]
    if not isinstance(dtype, str):
        return f"has the dtype {str(dtype)[:80]}"
    if not isinstance(shape, list) or len(shape) > 8 or not all(_is_count(size) for size in shape):
        return f"has the shape {str(shape)[:80]}"
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_count(offset) for offset in offsets):
        return f"has the data_offsets {str(offsets)[:80]}"
    begin, end = offsets
    if not begin <= end <= data_bytes:
        return f"lies at {begin}..{end} but the data end at {data_bytes}"
    if dtype in _KNOWN and prod(shape) * _KNOWN[dtype].itemsize != end - begin:
        return f"has {end - begin} bytes, which is not its shape {shape} in {dtype}"
    return None


def _reader(path: Path, offset: int, row_length: int, dtype: str) -> Callable[[int, int], np.ndarray]:
    storage = _KNOWN[dtype]
    row_bytes = row_length * storage.itemsize

    def read_rows(start: int, stop: int) -> np.ndarray:
        block = read_bytes(path, offset + start * row_bytes, (stop - start) * row_bytes)
        return block.view(storage).reshape(stop - start, row_length)

    return read_rows


def read_entries(
    path: Path, skip: Callable[[str], bool] = lambda name: False, packed: bool = False
) -> list[TensorEntry]:
    """The tensors of a safetensors file in the order of their data; names that `skip` accepts are left out.

    With `packed` the integers of quantised MLX folders are taken too.

    Raises:
        InputError: the file is damaged, its header lies, or a tensor is not F32, F16 or BF16.
    """
    header, data_start, size = _header(path)
    header.pop("__metadata__", None)
    for name, info in header.items():
        problem = _entry_problem(info, size - data_start)
        if problem:
            raise InputError(
                tr(
                    "{path}: the tensor {name!r} {problem}; the file is damaged, get a fresh copy of it",
                    path=path,
                    name=name[:120],
                    problem=problem,
                )
            )
    order = sorted(header, key=lambda name: header[name]["data_offsets"])
    position = 0
    for name in order:
        begin, end = header[name]["data_offsets"]
        if begin != position:
            raise InputError(
                tr(
                    "{path}: there is a gap or an overlap before the tensor {name!r}; get a fresh copy",
                    path=path,
                    name=name[:120],
                )
            )
        position = end
    if position != size - data_start:
        raise InputError(
            tr(
                "{path}: has {size} bytes that belong to no tensor; get a fresh copy",
                path=path,
                size=size - data_start - position,
            )
        )
    known = _KNOWN if packed else STORAGE
    return [_entry(path, name, header[name], data_start, known) for name in order if not skip(name)]


def _entry(
    path: Path, name: str, info: dict[str, Any], data_start: int, known: dict[str, np.dtype[Any]]
) -> TensorEntry:
    dtype, shape = info["dtype"], tuple(info["shape"])
    if dtype not in known:
        raise InputError(
            tr(
                "{path}: the tensor {name!r} has the type {dtype!r}; F32, F16 and BF16 are supported, so give "
                "the original, unquantised checkpoint",
                path=path,
                name=name[:120],
                dtype=dtype[:20],
            )
        )
    row_length = shape[-1] if shape else 1
    read_rows = _reader(path, data_start + info["data_offsets"][0], row_length, dtype)
    return TensorEntry(name, shape, dtype=dtype, read_rows=read_rows, origin=f"{path}: {name}")
