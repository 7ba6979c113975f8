"""Hugging Face folders, as transformers and everything built on it open them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from converters.experts import one_by_one
from converters.json_files import write_object
from converters.names import architecture_of
from converters.output import OutputFolder
from converters.tensors import CONFIG_NAMES, Checkpoint
from converters.writers import Progress
from converters.writers.mlx import copy_companions
from converters.writers.safetensors_file import plan_shards, write_shards
from converters.writers.stored import dense

# transformers' own limit.
SHARD_BYTES = 5_000_000_000


def write_huggingface(
    folder: OutputFolder, checkpoint: Checkpoint, tokenizer: Sequence[Path], dtype: str, on_progress: Progress
) -> int:
    """Write the checkpoint into `folder`, its weights as `dtype`. Returns: tensors written.

    Readers give Hugging Face names and dense values, whatever the source was. A single file needs no index.

    Raises:
        InputError: a tensor holds values that cannot be written.
        OSError: a file cannot be written.
    """
    architecture = architecture_of(checkpoint.config["model_type"], str(checkpoint.source))
    stored = [
        dense(entry, entry.dtype if entry.name.endswith(architecture.kept_dtypes) else dtype)
        for entry in one_by_one(checkpoint.entries)
    ]
    shards = plan_shards(stored, SHARD_BYTES)
    write_shards(folder, shards, "pt", on_progress)
    if len(shards) == 1:
        (folder.path / "model.safetensors.index.json").unlink()
    written = {key: value for key, value in checkpoint.config.items() if key != "dtype"}
    written |= {
        "architectures": [architecture.class_name],
        "model_type": architecture.text_type or architecture.model_type,
        "torch_dtype": CONFIG_NAMES[dtype],
    }
    write_object(folder.path / "config.json", written)
    copy_companions(folder, checkpoint, tokenizer)
    return len(checkpoint.entries)
