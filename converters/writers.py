"""Writers: a checkpoint streamed, block by block, into the files of its output folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from converters.json_files import write_object
from converters.output import HashingFile, OutputFolder
from converters.tensors import CONFIG_NAMES, Checkpoint, TensorEntry, cast_checked

# A shard below 2 GB loads on every file system and reader, and a broken one is cheap to fetch again.
SHARD_BYTES = 2_000_000_000

Progress = Callable[[int], None]
"""Called with the number of bytes that were handled since the last call."""


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
    file: HashingFile, entries: Sequence[TensorEntry], dtype: str, metadata: dict[str, str], on_progress: Progress
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
    file.write(len(text).to_bytes(8, "little") + text)
    for entry in entries:
        for start, stop in entry.spans():
            block = cast_checked(entry, start, stop, dtype)
            file.write(np.ascontiguousarray(block).data.cast("B"))
            on_progress(block.nbytes)


def write_mlx(
    folder: OutputFolder, checkpoint: Checkpoint, tokenizer: Sequence[Path], dtype: str, on_progress: Progress
) -> int:
    """Write the checkpoint into `folder` as `mlx_lm.load` opens it, its weights as `dtype`. Returns: tensors written.

    Shards that an earlier, killed run finished are kept.

    Raises:
        InputError: a tensor holds values that cannot be written.
        OSError: a file cannot be written.
    """
    shards = plan_shards(checkpoint.entries, dtype)
    weight_map: dict[str, str] = {}
    for number, entries in enumerate(shards, start=1):
        one = len(shards) == 1
        name = "model.safetensors" if one else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        weight_map |= {entry.name: name for entry in entries}
        if folder.has(name):
            on_progress(sum(entry.n_bytes(dtype) for entry in entries))
            continue
        with folder.file(name) as file:
            write_safetensors(file, entries, dtype, {"format": "mlx"}, on_progress)
    total = sum(entry.n_bytes(dtype) for entry in checkpoint.entries)
    parameters = sum(entry.n_elements for entry in checkpoint.entries)
    write_object(
        folder.path / "model.safetensors.index.json",
        {"metadata": {"total_size": total, "total_parameters": parameters}, "weight_map": weight_map},
    )
    config = {key: value for key, value in checkpoint.config.items() if key != "dtype"}
    write_object(folder.path / "config.json", config | {"torch_dtype": CONFIG_NAMES[dtype]})
    if checkpoint.generation_config is not None:
        write_object(folder.path / "generation_config.json", checkpoint.generation_config)
    for path in tokenizer:
        shutil.copyfile(path, folder.path / path.name)
    return len(checkpoint.entries)
