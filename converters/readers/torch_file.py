"""torch's `.bin` files (a zip archive of a pickle and of raw storages), read without torch and without running them."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from converters.readers.byte_ranges import file_size, read_bytes
from converters.readers.torch_pickle import Storage, StoredTensor, read_pickle
from converters.tensors import STORAGE, TensorEntry
from mlx_loopai.errors import InputError
from mlx_loopai.language import tr

# Limits. For each tensor a state dict has about a hundred bytes and forty opcodes in its pickle, and an archive member.
_PICKLE_BYTES, _PICKLE_BYTES_PER_MEMBER = 1 << 16, 4096
_STEPS, _STEPS_PER_MEMBER = 1000, 200
_MAX_MEMBERS = 200_000
_LOCAL_HEADER = struct.Struct("<4s22xHH")


def read_torch_file(path: Path, skip: Callable[[str], bool] = lambda name: False) -> list[TensorEntry]:
    """The tensors of a `.bin` file in the order of its pickle; names that `skip` accepts are left out.

    Raises:
        InputError: the file is damaged, not in torch's zip format, or its pickle does more than describe tensors.
    """
    members, root = _members(path)
    pickle = members[f"{root}data.pkl"]
    if pickle.file_size > _PICKLE_BYTES + _PICKLE_BYTES_PER_MEMBER * len(members):
        raise InputError(
            tr(
                "{path}: its pickle has {file_size} bytes, more than its {count} members need",
                path=path,
                file_size=pickle.file_size,
                count=len(members),
            )
        )
    start = _data_start(path, pickle)
    steps = _STEPS + _STEPS_PER_MEMBER * len(members)
    found = read_pickle(read_bytes(path, start, pickle.file_size).tobytes(), str(path), steps)
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict) or not found:
        raise InputError(
            tr("{path}: holds no dictionary of tensors; get the safetensors version of the model", path=path)
        )
    for name, tensor in found.items():
        if not isinstance(name, str) or not isinstance(tensor, StoredTensor):
            shown = name[:120] if isinstance(name, str) else "a number"
            raise InputError(
                tr(
                    "{path}: {shown!r} is not a tensor; get the safetensors version of the model",
                    path=path,
                    shown=shown,
                )
            )
    return [_entry(path, root, members, name, tensor) for name, tensor in found.items() if not skip(name)]


def _members(path: Path) -> tuple[dict[str, zipfile.ZipInfo], str]:
    """The archive's members by name, and the folder that all of them lie in."""
    size = file_size(path)
    if size >= 4 and read_bytes(path, 0, 4).tobytes() != b"PK\3\4":
        raise InputError(
            tr(
                "{path}: is not in torch's zip format (the format before torch 1.6 is not read); get the safetensors "
                "version of the model",
                path=path,
            )
        )
    try:
        with zipfile.ZipFile(path) as archive:
            listed = archive.infolist()
    # The module raises several kinds for damaged archives.
    except (
        zipfile.BadZipFile,
        ValueError,
        OSError,
        NotImplementedError,
        struct.error,
        EOFError,
        OverflowError,
    ) as error:
        raise InputError(
            tr("{path}: is a damaged archive ({error}); get a fresh copy of it", path=path, error=str(error)[:120])
        ) from None
    members = {member.filename: member for member in listed}
    if len(members) != len(listed) or len(listed) > _MAX_MEMBERS:
        raise InputError(tr("{path}: lists a member twice, or too many; get a fresh copy of it", path=path))
    roots = [name.removesuffix("data.pkl") for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(roots) != 1:
        raise InputError(
            tr("{path}: holds no data.pkl, so it is not a file of torch tensors; get a fresh copy of it", path=path)
        )
    byteorder = members.get(f"{roots[0]}byteorder")
    if byteorder is not None and read_bytes(path, _data_start(path, byteorder), 3).tobytes() != b"lit":
        raise InputError(
            tr("{path}: was written on a big-endian machine; get the safetensors version of the model", path=path)
        )
    return members, roots[0]


def _data_start(path: Path, member: zipfile.ZipInfo) -> int:
    """Where the member's bytes begin in the file; they are stored as they are."""
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
        raise InputError(
            tr(
                "{path}: the member {filename!r} is compressed, which torch never does",
                path=path,
                filename=member.filename[:80],
            )
        )
    if member.header_offset < 0:
        raise InputError(
            tr(
                "{path}: the member {filename!r} lies before the file; get a fresh copy of it",
                path=path,
                filename=member.filename[:80],
            )
        )
    head = read_bytes(path, member.header_offset, _LOCAL_HEADER.size).tobytes()
    magic, name_length, extra_length = _LOCAL_HEADER.unpack(head)
    start = member.header_offset + _LOCAL_HEADER.size + name_length + extra_length
    if magic != b"PK\3\4" or start + member.file_size > file_size(path):
        raise InputError(
            tr(
                "{path}: the member {filename!r} ends after the file; get a fresh copy of it",
                path=path,
                filename=member.filename[:80],
            )
        )
    return start


def _entry(path: Path, root: str, members: dict[str, zipfile.ZipInfo], name: str, tensor: StoredTensor) -> TensorEntry:
    storage: Storage = tensor.storage
    member = members.get(f"{root}data/{storage.key}")
    if member is None or member.file_size != storage.n_values * storage.item_bytes:
        raise InputError(
            tr(
                "{path}: the storage of {name!r} is missing or has another size; get a fresh copy of it",
                path=path,
                name=name[:120],
            )
        )
    if storage.dtype is None:
        raise InputError(
            tr(
                "{path}: the tensor {name!r} is not F32, F16 or BF16; give the original checkpoint",
                path=path,
                name=name[:120],
            )
        )
    dtype = STORAGE[storage.dtype]
    begin = _data_start(path, member) + tensor.start * dtype.itemsize
    row_length = tensor.shape[-1] if tensor.shape else 1

    def read_rows(start: int, stop: int) -> np.ndarray:
        row_bytes = row_length * dtype.itemsize
        block = read_bytes(path, begin + start * row_bytes, (stop - start) * row_bytes)
        return block.view(dtype).reshape(stop - start, row_length)

    return TensorEntry(name, tensor.shape, dtype=storage.dtype, read_rows=read_rows, origin=f"{path}: {name}")
