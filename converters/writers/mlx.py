"""MLX folders, dense or quantised, as `mlx_lm.load` opens them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx_loopai  # noqa: F401  # before mlx: on Linux it loads the fast BLAS

# isort: split
import mlx.core as mx
import numpy as np

from converters.json_files import write_object
from converters.output import OutputFolder
from converters.quantization import Forms, Scheme, quantization_config, quantize_rows
from converters.tensors import CONFIG_NAMES, TensorEntry, cast_checked
from converters.vision_tower import Written
from converters.writers import Progress
from converters.writers.safetensors_file import plan_shards, write_shards
from converters.writers.stored import Stored, StoredArray, dense
from mlx_loopai.models.architectures import ARCHITECTURES
from mlx_loopai.models.vision.added import FOLDER as ADDED_ENCODER

# Prefixes of tensor names in MLX programs, for the two parts of a vision-language model.
_TEXT, _TOWER = "language_model.", "vision_tower."


def quantized(entry: TensorEntry, scheme: Scheme, dtype: str) -> Stored:
    """The matrix `entry` as `scheme`, after rounding to `dtype` as mlx-lm does.

    One block of the source and the quantised tensor are in memory. Its `blocks` raise InputError for a value that is
    not finite or does not fit `dtype`.
    """
    module = entry.name.removesuffix(".weight")
    scales_dtype, scales_shape = scheme.scales_dtype(dtype), scheme.scales_shape(entry.shape)
    arrays = [
        StoredArray(f"{module}.weight", "U32", scheme.packed_shape(entry.shape)),
        StoredArray(f"{module}.scales", scales_dtype, scales_shape),
    ]
    if scheme.mode == "affine":
        arrays.append(StoredArray(f"{module}.biases", scales_dtype, scales_shape))

    def blocks() -> Iterator[np.ndarray]:
        parts = [quantize_rows(cast_checked(entry, start, stop, dtype), dtype, scheme) for start, stop in entry.spans()]
        # MLX keeps freed buffers for reuse at the same size, which the next tensor does not have.
        mx.clear_cache()
        for kind in zip(*parts, strict=True):
            yield from kind

    return Stored(tuple(arrays), blocks, entry.n_elements)


def stored_as(entry: TensorEntry, form: str | Scheme, dtype: str) -> Stored:
    """`entry` as `form`: a storage type, or a scheme whose scales are `dtype`."""
    return dense(entry, form) if isinstance(form, str) else quantized(entry, form, dtype)


def write_mlx(
    folder: OutputFolder,
    written: Written,
    tokenizer: Sequence[Path],
    forms: Forms,
    on_progress: Progress,
) -> int:
    """Write `written` into `folder`, the text model's weights as `forms` has it. Returns: tensors written.

    Shards that an earlier, killed run finished are kept.

    Raises:
        InputError: a tensor holds values that cannot be written.
        OSError: a file cannot be written.
    """
    checkpoint, tower = written.text, written.tower
    prefix = _prefix(written)
    by_name = {f"{prefix}{name}": form for name, form in forms.by_name.items()}
    entries = [replace(entry, name=f"{prefix}{entry.name}") for entry in checkpoint.entries]
    tensors = [stored_as(entry, by_name.get(entry.name, forms.dtype), forms.dtype) for entry in entries]
    if tower is not None:
        tensors += [dense(entry, forms.dtype) for entry in tower.named(_TOWER, of_mlx=True)]
    write_shards(folder, plan_shards(tensors), "mlx", on_progress)
    config: dict[str, Any] = {key: value for key, value in checkpoint.config.items() if key != "dtype"}
    if tower is not None:
        config = tower.mlx_config(checkpoint, forms.dtype)
    block = quantization_config(by_name, forms.main)
    if block is not None:
        # Twice, as mlx-lm writes it: the hub reads the second.
        config |= {"quantization": block, "quantization_config": block}
    write_object(folder.path / "config.json", config | {"torch_dtype": CONFIG_NAMES[forms.dtype]})
    copy_companions(folder, written, tokenizer)
    return len(tensors)


def _prefix(written: Written) -> str:
    """The prefix of the text model's tensor names in MLX programs."""
    if written.tower is not None:
        return _TEXT
    # A text encoder is not in the table.
    architecture = ARCHITECTURES.get(written.text.config["model_type"])
    return architecture.mlx_prefix if architecture else ""


def copy_companions(folder: OutputFolder, written: Written, tokenizer: Sequence[Path]) -> None:
    """Put the generation settings and the files of tokenizer, tower and added encoder beside the weights.

    Raises: OSError.
    """
    if written.text.generation_config is not None:
        write_object(folder.path / "generation_config.json", written.text.generation_config)
    for path in (*tokenizer, *(() if written.tower is None else written.tower.files)):
        shutil.copyfile(path, folder.path / path.name)
    for path in written.added:
        place = folder.path / ADDED_ENCODER / path.name
        place.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, place)
