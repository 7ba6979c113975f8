"""Reads torch's format from before version 1.6, several pickles and then the raw storages, without running anything."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from converters.readers.torch_pickle import StoredTensor, read_pickle
from converters.tensors import STORAGE
from mlx_loopai.errors import InputError
from mlx_loopai.language import tr

# The values of such a file's first two pickles. Source: torch.serialization.
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
# A file of this format is read whole; encoders of pictures are far smaller.
_MOST_BYTES = 1 << 30
_STEPS, _STEPS_PER_BYTE = 1000, 1


def is_legacy(path: Path) -> bool:
    """Whether the file begins like one of this format. Raises: OSError."""
    with path.open("rb") as stream:
        head = stream.read(16)
    return head[:4] == b"\x80\x02\x8a\x0a" and int.from_bytes(head[4:14], "little") == _MAGIC


def read_legacy_file(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file of float32 and float16 tensors by name; whole numbers, such as counters, are left out.

    Raises: InputError when the file is damaged, large, or its pickles do more than describe tensors.
    """
    size = path.stat().st_size
    if size > _MOST_BYTES:
        raise InputError(
            tr(
                "{path}: {size} MiB in torch's old format; get the safetensors version of it",
                path=path,
                size=size >> 20,
            )
        )
    data = path.read_bytes()
    stream = io.BytesIO(data)
    steps = _STEPS + _STEPS_PER_BYTE * min(size, 1 << 22)

    def next_pickle() -> Any:
        return read_pickle(stream, str(path), steps, any_order=True)

    magic, protocol, system = (next_pickle() for _ in range(3))
    if magic != _MAGIC or protocol != _PROTOCOL or not isinstance(system, dict):
        raise InputError(tr("{path}: not in torch's format; get the safetensors version of it", path=path))
    if system.get("little_endian") is not True:
        raise InputError(
            tr("{path}: was written on a big-endian machine; get the safetensors version of it", path=path)
        )
    described, keys = next_pickle(), next_pickle()
    if not isinstance(described, dict) or not isinstance(keys, list):
        raise InputError(tr("{path}: holds no dictionary of tensors; get the safetensors version of it", path=path))
    tensors = {name: one for name, one in described.items() if isinstance(one, StoredTensor)}
    if len(tensors) != len(described):
        raise InputError(
            tr("{path}: holds something that is not a tensor; get the safetensors version of it", path=path)
        )
    places = _storages(path, tensors, keys, stream)
    return {name: _array(data, one, places) for name, one in tensors.items() if one.storage.dtype is not None}


def _storages(path: Path, tensors: dict[str, StoredTensor], keys: list[Any], stream: io.BytesIO) -> dict[str, int]:
    """Byte offset of each storage's values, by key. Storages lie in the order of `keys`, each after its length."""
    known = {one.storage.key: one.storage for one in tensors.values()}
    size = stream.seek(0, io.SEEK_CUR), len(stream.getbuffer())
    place, end = size
    places: dict[str, int] = {}
    for key in keys:
        storage = known.get(key) if isinstance(key, str) else None
        if storage is None or key in places:
            raise InputError(tr("{path}: its storages are not those of its tensors; get a fresh copy of it", path=path))
        count = int.from_bytes(stream.getbuffer()[place : place + 8], "little", signed=True)
        places[key] = place + 8
        place += 8 + count * storage.item_bytes
        if count != storage.n_values or place > end:
            raise InputError(tr("{path}: a storage is missing or has another size; get a fresh copy of it", path=path))
    if places.keys() != known.keys():
        raise InputError(tr("{path}: a storage is missing; get a fresh copy of it", path=path))
    return places


def _array(data: bytes, tensor: StoredTensor, places: dict[str, int]) -> np.ndarray:
    assert tensor.storage.dtype is not None
    dtype = STORAGE[tensor.storage.dtype]
    values = np.frombuffer(data, dtype, tensor.storage.n_values, places[tensor.storage.key])
    strides = [stride * dtype.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(values[tensor.start :], tensor.shape, strides, writeable=False)
