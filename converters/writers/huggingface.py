"""Hugging Face folders, as transformers and everything built on it open them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from converters.experts import one_by_one
from converters.json_files import write_object
from converters.names import architecture_of
from converters.output import OutputFolder
from converters.tensors import CONFIG_NAMES
from converters.vision_tower import Written
from converters.writers import Progress
from converters.writers.mlx import copy_companions
from converters.writers.safetensors_file import plan_shards, write_shards
from converters.writers.stored import dense

# Prefixes of tensor names in transformers: of a text model, and of the two parts of a vision-language model.
_BODY, _BODY_OF_SEEING, _TOWER = re.compile(r"^model\."), "model.language_model.", "model.visual."
# transformers' own limit.
SHARD_BYTES = 5_000_000_000


def write_huggingface(
    folder: OutputFolder, written: Written, tokenizer: Sequence[Path], dtype: str, on_progress: Progress
) -> int:
    """Write `written` into `folder`, its weights as `dtype`. Returns: tensors written.

    Readers give Hugging Face names and dense values, whatever the source was. A single file needs no index.

    Raises:
        InputError: a tensor holds values that cannot be written.
        OSError: a file cannot be written.
    """
    checkpoint, tower = written.text, written.tower
    architecture = architecture_of(checkpoint.config["model_type"], str(checkpoint.source))
    entries = list(one_by_one(checkpoint.entries))
    if tower is not None:
        entries = [replace(entry, name=_BODY.sub(_BODY_OF_SEEING, entry.name)) for entry in entries]
    stored = [
        dense(entry, entry.dtype if entry.name.endswith(architecture.kept_dtypes) else dtype) for entry in entries
    ]
    if tower is not None:
        stored += [dense(entry, dtype) for entry in tower.named(_TOWER)]
    shards = plan_shards(stored, SHARD_BYTES)
    write_shards(folder, shards, "pt", on_progress)
    if len(shards) == 1:
        (folder.path / "model.safetensors.index.json").unlink()
    config = {key: value for key, value in checkpoint.config.items() if key != "dtype"}
    config |= {
        "architectures": [architecture.class_name],
        "model_type": architecture.text_type or architecture.model_type,
        "torch_dtype": CONFIG_NAMES[dtype],
    }
    if tower is not None:
        config = tower.huggingface_config(checkpoint, dtype)
    write_object(folder.path / "config.json", config)
    copy_companions(folder, written, tokenizer)
    return len(checkpoint.entries) + (0 if tower is None else len(tower.entries))
