"""An index on disk: a manifest, and a folder of data that it names.

    INDEX/index.json          what the index holds, with the size and sha256 of each file
    INDEX/data-<16 hex>/      chunks.sqlite, the term arrays, vectors.npy with an embedder

A build writes a new data folder and then replaces the manifest in one rename: a reader sees the old index or the new.
Nothing is trusted when it is read: there is no pickle, file names are fixed, types and bounds are checked.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mlx_loopai.errors import InputError
from mlx_loopai.files import locked_folder, sync_file, write_whole
from mlx_loopai.language import tr
from mlx_loopai.retrieval.bm25 import DTYPES

VERSION = 1
MANIFEST = "index.json"
DATABASE = "chunks.sqlite"
VECTORS = "vectors.npy"
_MAX_MANIFEST_BYTES = 1 << 20
# What numpy pads the header of such small shapes to.
_HEADER_BYTES = 128


REQUIRED = {DATABASE, *(f"{name}.npy" for name in DTYPES)}
FileName = Literal["chunks.sqlite", "terms.npy", "starts.npy", "passages.npy", "weights.npy", "vectors.npy"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StoredFile(_Part):
    """Size and checksum of a file of the data folder."""

    n_bytes: int
    sha256: str


class EmbedderName(_Part):
    """The model that made the vectors, which queries must go through too. `base_hash` identifies its weights."""

    model: str
    base_hash: str
    dims: Annotated[int, Field(gt=0)]


class Manifest(_Part):
    """The content of index.json. passages: distinct ones; duplicates: left out, as an earlier one has their words."""

    format: Literal["mlx-loopai retrieval index"] = "mlx-loopai retrieval index"
    version: Literal[1] = 1
    data: Annotated[str, Field(pattern=r"^data-[0-9a-f]{16}$")]
    chunk_chars: int
    passages: Annotated[int, Field(gt=0)]
    duplicates: int
    files: dict[FileName, StoredFile]
    embedder: EmbedderName | None = None
    vectors: Literal["none", "file", "chroma", "chroma-server"] = "none"


def read_manifest(index: Path) -> Manifest:
    """The manifest of an index folder. Raises: InputError when there is none, or it is not one of ours."""
    path = index / MANIFEST
    if not path.is_file():
        state = "no index here" if index.is_dir() else "no such folder"
        raise InputError(
            tr(
                "`index` {index}: {state} ({manifest} is missing); make one: mlx-loopai rag build FILES",
                index=index,
                state=state,
                manifest=MANIFEST,
            )
        )
    if path.stat().st_size > _MAX_MANIFEST_BYTES:
        raise InputError(tr("{path}: too large for a manifest; build the index anew", path=path))
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise InputError(
            tr(
                "{path}: {place}: {problem}; not an index of this version ({version}); build it anew",
                path=path,
                place=place,
                problem=first["msg"],
                version=VERSION,
            )
        ) from None


def check_files(index: Path, manifest: Manifest) -> Path:
    """The data folder. Raises: InputError for a file that is missing or was changed."""
    folder = index / manifest.data
    missing = REQUIRED - manifest.files.keys()
    if manifest.vectors == "file":
        missing |= {VECTORS} - manifest.files.keys()
    if missing:
        raise InputError(
            tr(
                "{index}: names no {missing}; build the index anew",
                index=index / MANIFEST,
                missing=", ".join(sorted(missing)),
            )
        )
    for name, stored in manifest.files.items():
        path = folder / name
        try:
            with path.open("rb") as stream:
                found = StoredFile(n_bytes=os.fstat(stream.fileno()).st_size, sha256=_sha256(stream))
        except OSError as error:
            raise InputError(tr("{path}: {reason}; build the index anew", path=path, reason=error.strerror)) from None
        if found != stored:
            raise InputError(
                tr("{path}: was changed or damaged after it was built (checksum); build the index anew", path=path)
            )
    return folder


def read_array(path: Path, dtype: str, row: tuple[int, ...] = ()) -> npt.NDArray[Any]:
    """The array (N, *row) of an .npy file, mapped.

    numpy's reader would parse the header as Python. Here it must equal, byte for byte, the header that numpy writes for
    such an array. Raises: InputError when it does not.
    """
    size = path.stat().st_size
    n_rows = (size - _HEADER_BYTES) // (np.dtype(dtype).itemsize * math.prod(row))
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": dtype, "fortran_order": False, "shape": (max(0, n_rows), *row)}
    )
    with path.open("rb") as stream:
        fits = n_rows > 0 and stream.read(_HEADER_BYTES) == header.getvalue()
    if not fits:
        raise InputError(
            tr("{path}: is not an array of {dtype} as an index holds it; build the index anew", path=path, dtype=dtype)
        )
    return np.memmap(path, dtype, mode="r", offset=_HEADER_BYTES, shape=(n_rows, *row))


@contextmanager
def locked(index: Path) -> Iterator[None]:
    """Lock the index folder for this process; it is created when it does not exist.

    Raises: InputError when another process builds it, or the folder holds other things.
    """
    if index.exists() and not index.is_dir():
        raise InputError(tr("`index` {index}: is a file; name a folder", index=index))
    if index.is_dir() and any(index.iterdir()) and not (index / MANIFEST).exists() and not _own_leftovers(index):
        raise InputError(tr("`index` {index}: holds other files; name a new or empty folder", index=index))
    index.mkdir(parents=True, exist_ok=True)
    with locked_folder(index, f"`index` {index}: another process is building it; wait for it"):
        try:
            yield
        finally:
            # Removes the folder only if it is empty, while it is still locked.
            with suppress(OSError):
                index.rmdir()


def replace_data(index: Path, write: Callable[[Path], dict[str, Any]]) -> Manifest:
    """Let `write` fill a new data folder, and make it the index; the old data is removed after that.

    `write` returns the manifest's values besides `data` and `files`.
    """
    name = f"data-{secrets.token_hex(8)}"
    folder = index / name
    folder.mkdir()
    try:
        values = write(folder)
        files = {}
        for path in sorted(folder.iterdir()):
            sync_file(path)
            with path.open("rb") as stream:
                files[path.name] = StoredFile(n_bytes=path.stat().st_size, sha256=_sha256(stream))
        sync_file(folder)
        manifest = Manifest.model_validate({"data": name, "files": files, **values})
        write_whole(index / MANIFEST, manifest.model_dump_json(indent=2) + "\n")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    for old in index.glob("data-*"):
        if old.name != name:
            shutil.rmtree(old, ignore_errors=True)
    return manifest


def _own_leftovers(index: Path) -> bool:
    """Whether the folder holds only the leftovers of a first build that was killed."""
    return all(path.name.startswith("data-") or path.name == "chroma" for path in index.iterdir())


def _sha256(stream: Any) -> str:
    return hashlib.file_digest(stream, "sha256").hexdigest()
