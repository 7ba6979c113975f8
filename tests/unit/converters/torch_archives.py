"""torch's `.bin` files, written with zipfile and a few opcodes: torch is not needed."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np


def text(value: str) -> bytes:
    return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()


def number(value: int) -> bytes:
    return b"\x8a\x08" + value.to_bytes(8, "little", signed=True)


def tensor(key: str, shape: tuple[int, ...], n_values: int, kind: str = "FloatStorage", start: int = 0) -> bytes:
    strides = [int(np.prod(shape[axis + 1 :], dtype=int)) for axis in range(len(shape))]
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
