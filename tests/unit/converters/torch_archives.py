"""torch's `.bin` files, written with zipfile and a few opcodes: torch is not needed."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np


def text(value: str) -> bytes:
    return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()


def number(value: int) -> bytes:
    return b"\x8a\x08" + value.to_bytes(8, "little", signed=True)


def tensor(
    key: str,
    shape: tuple[int, ...],
    n_values: int,
    kind: str = "FloatStorage",
    start: int = 0,
    strides: list[int] | None = None,
) -> bytes:
    strides = strides or [int(np.prod(shape[axis + 1 :], dtype=int)) for axis in range(len(shape))]
    storage = b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu") + number(n_values) + b"tQ"
    sizes = b"(" + b"".join(map(number, shape)) + b"t" + b"(" + b"".join(map(number, strides)) + b"t"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(start) + sizes + b"\x89" + ORDERED + b"tR"


ORDERED = b"ccollections\nOrderedDict\n)R"


def pickled(items: dict[str, bytes]) -> bytes:
    pairs = b"".join(text(name) + value for name, value in items.items())
    return b"\x80\x02" + ORDERED + b"(" + pairs + b"u" + b"}" + text("_metadata") + ORDERED + b"sb."


def write_bin(path: Path, tensors: dict[str, np.ndarray], pickle: bytes | None = None) -> Path:
    kinds = {"float32": "FloatStorage", "float16": "HalfStorage", "uint16": "BFloat16Storage", "bool": "BoolStorage"}
    items = {
        name: tensor(str(at), values.shape, values.size, kinds[values.dtype.name])
        for at, (name, values) in enumerate(tensors.items())
    }
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled(items) if pickle is None else pickle)
        archive.writestr("archive/byteorder", "little")
        for at, values in enumerate(tensors.values()):
            archive.writestr(f"archive/data/{at}", values.tobytes())
    return path


MAGIC = b"\x80\x02\x8a\x0a" + (0x1950A86A20F9469CFC6C).to_bytes(10, "little") + b"."


def write_legacy(path: Path, tensors: dict[str, np.ndarray], little: bool = True) -> Path:
    """A file as torch wrote it before version 1.6; an array in another order than C is stored as it lies in memory."""
    kinds = {"float32": "FloatStorage", "float16": "HalfStorage", "int64": "LongStorage"}
    items = {
        name: tensor(
            str(at),
            values.shape,
            values.size,
            kinds[values.dtype.name],
            strides=[stride // values.itemsize for stride in values.strides],
        )
        for at, (name, values) in enumerate(tensors.items())
    }
    system = b"\x80\x02}" + text("little_endian") + (b"\x88" if little else b"\x89") + b"s."
    keys = b"\x80\x02](" + b"".join(text(str(at)) for at in range(len(tensors))) + b"e."
    storages = b"".join(values.size.to_bytes(8, "little") + values.tobytes(order="A") for values in tensors.values())
    path.write_bytes(MAGIC + b"\x80\x02M\xe9\x03." + system + pickled(items) + keys + storages)
    return path
