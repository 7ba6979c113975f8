"""Streams tensors into a safetensors file, the header first and then block by block, or into a folder of shards."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from converters.hashing_file import HashingFile
from converters.json_files import write_object
from converters.output import OutputFolder
from converters.writers import Progress
from converters.writers.stored import Stored

# A shard below 2 GB loads on every file system and reader, and a broken one is cheap to fetch again.
SHARD_BYTES = 2_000_000_000


def plan_shards(tensors: Iterable[Stored], limit: int = SHARD_BYTES) -> list[list[Stored]]:
    """The tensors in order, cut into shards of at most `limit` bytes each (a larger tensor gets its own)."""
    shards: list[list[Stored]] = []
    room = 0
    for tensor in tensors:
        if not shards or tensor.n_bytes > room:
            shards.append([])
            room = limit
        shards[-1].append(tensor)
        room -= tensor.n_bytes
    return shards


def write_safetensors(
    file: HashingFile, tensors: Sequence[Stored], metadata: Mapping[str, str], on_progress: Progress
) -> None:
    """Stream `tensors` into one safetensors file.

    Source: https://github.com/huggingface/safetensors (Format).

    Raises:
        InputError: a value is not finite or does not fit its type.
        OSError: the file cannot be written.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    position = 0
    for array in (array for tensor in tensors for array in tensor.arrays):
        end = position + array.n_bytes
        header[array.name] = {"dtype": array.dtype, "shape": list(array.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    # The format asks for data that begin at a multiple of 8.
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for tensor in tensors:
        for block in tensor.blocks():
            file.write(np.ascontiguousarray(block).data.cast("B"))
            on_progress(block.nbytes)


def write_shards(folder: OutputFolder, shards: Sequence[Sequence[Stored]], made_by: str, on_progress: Progress) -> None:
    """Write the shards and their index; `made_by` is the header's `format` (mlx or pt).

    Shards that an earlier, killed run finished are kept. Raises: InputError, OSError as `write_safetensors` does.
    """
    weight_map: dict[str, str] = {}
    for number, tensors in enumerate(shards, start=1):
        one = len(shards) == 1
        name = "model.safetensors" if one else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        weight_map |= {array.name: name for tensor in tensors for array in tensor.arrays}
        if folder.has(name):
            on_progress(sum(tensor.n_bytes for tensor in tensors))
            continue
        with folder.file(name) as file:
            write_safetensors(file, tensors, {"format": made_by}, on_progress)
    everything = [tensor for shard in shards for tensor in shard]
    total = sum(tensor.n_bytes for tensor in everything)
    parameters = sum(tensor.n_elements for tensor in everything)
    write_object(
        folder.path / "model.safetensors.index.json",
        {"metadata": {"total_size": total, "total_parameters": parameters}, "weight_map": weight_map},
    )
