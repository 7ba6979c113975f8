"""Writers: a checkpoint streamed, block by block, into a folder that appears complete or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from converters.json_files import write_object
from converters.tensors import CONFIG_NAMES, Checkpoint, TensorEntry, cast_checked
from mlx_loopai.errors import InputError, LoopaiError
from mlx_loopai.units import format_bytes

# A shard below 2 GB loads on every file system and reader, and a broken one is cheap to fetch again.
SHARD_BYTES = 2_000_000_000

Progress = Callable[[int], None]
"""Called with the number of bytes that were handled since the last call."""


@dataclass(frozen=True)
class Written:
    """What a writer wrote: number of tensors, and bytes of all files together."""

    tensors: int
    n_bytes: int


def check_output_free(out: Path) -> None:
    """Refuse to write where something is already.

    Raises:
        InputError: `out` is a file, or a folder that is not empty.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(f"{out}: is a file where the output folder should be; choose another --out")
    if any(out.iterdir()):
        raise InputError(f"{out}: already holds files and is never overwritten; choose another --out or remove it")


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def output_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out` that takes its name when the block ends well, and vanishes when it does not.

    Raises:
        InputError: `out` is not free.
        LoopaiError: the disk is full, or the folder cannot be written.
    """
    check_output_free(out)
    out = out.absolute()
    temporary = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        yield temporary
        for path in temporary.iterdir():
            _flush(path)
        _flush(temporary)
        # Another program may have filled `out` meanwhile; rename replaces an empty folder only.
        os.rename(temporary, out)
        _flush(out.parent)
    except OSError as error:
        raise _as_one_line(error, out) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _as_one_line(error: OSError, out: Path) -> LoopaiError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return LoopaiError(f"{out}: the disk is full and nothing was kept; free some space or choose another --out")
    if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
        return InputError(f"{out}: already holds files and is never overwritten; choose another --out or remove it")
    return LoopaiError(f"{out}: cannot be written ({error.strerror or error}); choose another --out")


def check_space(out: Path, n_bytes: int) -> None:
    """Say at once, rather than after minutes, that the output cannot fit.

    Raises:
        LoopaiError: the file system of `out` has less than `n_bytes` free.
    """
    place = out.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < n_bytes:
        raise LoopaiError(
            f"{out}: the disk is full: the output needs {format_bytes(n_bytes)} but {format_bytes(free)} are free;"
            " free some space, choose another --out, or a smaller --dtype"
        )


def plan_shards(entries: Iterable[TensorEntry], dtype: str, limit: int = SHARD_BYTES) -> list[list[TensorEntry]]:
    """The entries in order, cut into shards of at most `limit` bytes each (a larger tensor gets its own)."""
    shards: list[list[TensorEntry]] = []
    room = 0
    for entry in entries:
        size = entry.n_bytes(dtype)
        if not shards or size > room:
            shards.append([])
            room = limit
        shards[-1].append(entry)
        room -= size
    return shards


def write_safetensors(
    path: Path, entries: Sequence[TensorEntry], dtype: str, metadata: dict[str, str], on_progress: Progress
) -> None:
    """Stream `entries` as `dtype` into one safetensors file; no more than one block is in memory.

    Source: https://github.com/huggingface/safetensors (Format).

    Raises:
        InputError: a value is not finite or does not fit `dtype`.
        OSError: the file cannot be written.
    """
    header: dict[str, Any] = {"__metadata__": metadata}
    position = 0
    for entry in entries:
        end = position + entry.n_bytes(dtype)
        header[entry.name] = {"dtype": dtype, "shape": list(entry.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    # The format asks for data that begin at a multiple of 8.
    text += b" " * (-len(text) % 8)
    with path.open("wb", buffering=0) as file:
        _write_all(file.fileno(), len(text).to_bytes(8, "little") + text)
        for entry in entries:
            for start, stop in entry.spans():
                block = cast_checked(entry, start, stop, dtype)
                _write_all(file.fileno(), np.ascontiguousarray(block).data.cast("B"))
                on_progress(block.nbytes)


def _write_all(handle: int, data: bytes | memoryview) -> None:
    # One write() call takes at most 2 GiB and may stop early.
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def write_mlx(
    folder: Path, checkpoint: Checkpoint, tokenizer: Sequence[Path], dtype: str, on_progress: Progress
) -> Written:
    """Write the checkpoint into `folder` as `mlx_lm.load` opens it, its weights as `dtype`.

    Raises:
        InputError: a tensor holds values that cannot be written.
        OSError: a file cannot be written.
    """
    shards = plan_shards(checkpoint.entries, dtype)
    weight_map: dict[str, str] = {}
    for number, entries in enumerate(shards, start=1):
        one = len(shards) == 1
        name = "model.safetensors" if one else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_safetensors(folder / name, entries, dtype, {"format": "mlx"}, on_progress)
        weight_map |= {entry.name: name for entry in entries}
    total = sum(entry.n_bytes(dtype) for entry in checkpoint.entries)
    parameters = sum(entry.n_elements for entry in checkpoint.entries)
    write_object(
        folder / "model.safetensors.index.json",
        {"metadata": {"total_size": total, "total_parameters": parameters}, "weight_map": weight_map},
    )
    config = {key: value for key, value in checkpoint.config.items() if key != "dtype"}
    write_object(folder / "config.json", config | {"torch_dtype": CONFIG_NAMES[dtype]})
    if checkpoint.generation_config is not None:
        write_object(folder / "generation_config.json", checkpoint.generation_config)
    for path in tokenizer:
        shutil.copyfile(path, folder / path.name)
    return Written(len(checkpoint.entries), sum(path.stat().st_size for path in folder.iterdir()))
