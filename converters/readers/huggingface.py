"""A Hugging Face model folder: config.json and weights, in one file or in shards. MLX folders are the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from converters import names
from converters.configuration import from_hugging_face
from converters.experts import stacked
from converters.json_files import read_object
from converters.readers.safetensors_file import read_entries
from converters.readers.text_part import text_part
from converters.readers.torch_file import read_torch_file
from converters.readers.wrapped_names import unwrapped
from converters.tensors import STORAGE, Checkpoint, TensorEntry, same_values
from converters.tokenizer import tokenizer_files
from mlx_loopai.errors import InputError, all_problems
from mlx_loopai.files import refuse_links_out
from mlx_loopai.language import tr
from mlx_loopai.models.architectures import text_part as text_configuration
from mlx_loopai.models.configuration import refuse_foreign_quantization
from mlx_loopai.models.encoder import ENCODERS
from mlx_loopai.models.unused_keys import unused_fields

INDEX = "model.safetensors.index.json"
TORCH_INDEX = "pytorch_model.bin.index.json"
# Whatever of a folder is read, or copied into the output.
_NAMES = ("*.json", "*.safetensors", "*.bin", "*.txt", "*.jinja", "*.model")
# NVIDIA's ModelOpt describes its quantisation beside config.json.
_MODELOPT = "hf_quant_config.json"


def _shard_path(folder: Path, name: object, index: Path) -> Path:
    """The file that an index names. A name must stay within the folder: an index is data from a stranger."""
    if (
        not isinstance(name, str)
        or not name
        or any(character in name for character in "\\:\0")
        or PurePosixPath(name).is_absolute()
        or ".." in PurePosixPath(name).parts
    ):
        raise InputError(
            tr(
                "{index}: names the file {name!r}, which is not inside the folder; do not trust this model",
                index=index,
                name=name,
            )
        )
    return folder / name


def _indexed_shards(index: Path) -> tuple[list[Path], set[str]]:
    """The shards that the index names, in order, and the tensors that it promises."""
    folder = index.parent
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(tr("{index}: has no weight_map; get a fresh copy of it", index=index))
    # Checked one by one before they are made unique: a value may be unhashable.
    paths = {_shard_path(folder, name, index) for name in weight_map.values()}
    missing = sorted(path.name for path in paths if not path.is_file())
    if missing:
        raise InputError(
            tr(
                "{folder}: the shards {problems} are missing; download them again",
                folder=folder,
                problems=all_problems(missing),
            )
        )
    return sorted(paths), set(weight_map)


def _shards(folder: Path) -> tuple[list[Path], set[str]]:
    """The weight files and the tensors that an index promises; safetensors are preferred to torch's `.bin`."""
    for index, pattern in ((INDEX, "model*.safetensors"), (TORCH_INDEX, "pytorch_model*.bin")):
        if (folder / index).exists():
            return _indexed_shards(folder / index)
        found = sorted(folder.glob(pattern))
        if found:
            return found, set()
    raise InputError(
        tr(
            "{folder}: holds no model.safetensors, no {index} and no pytorch_model.bin; get the weights",
            folder=folder,
            index=INDEX,
        )
    )


def _entries(
    folder: Path, shards: list[Path], promised: set[str], packed: bool
) -> tuple[dict[str, TensorEntry], list[str]]:
    """All tensors by name, in the order in which they lie on disk; and the buffers, which nothing reads."""
    entries: dict[str, TensorEntry] = {}
    buffers: list[str] = []

    def is_buffer(name: str) -> bool:
        if names.is_buffer(name):
            buffers.append(name)
        return names.is_buffer(name)

    for shard in shards:
        if shard.suffix == ".bin":
            found = read_torch_file(shard, skip=is_buffer)
        else:
            found = read_entries(shard, skip=is_buffer, packed=packed)
        for entry in found:
            if entry.name in entries:
                raise InputError(
                    tr(
                        "{shard}: the tensor {name!r} is also in {split}; one of the files belongs to another model",
                        shard=shard,
                        name=entry.name,
                        split=entries[entry.name].origin.split(": ")[0],
                    )
                )
            entries[entry.name] = entry
    missing = sorted(repr(name[:120]) for name in promised - entries.keys() if not names.is_buffer(name))
    if missing:
        raise InputError(
            tr(
                "{folder}: the index promises tensors that no shard holds: {problems}",
                folder=folder,
                problems=all_problems(missing, limit=4),
            )
        )
    if not entries:
        raise InputError(tr("{folder}: its weight files hold no tensors; get a fresh copy of them", folder=folder))
    return entries, buffers


def _mlx_quantization(raw: dict[str, Any], folder: Path) -> dict[str, Any] | None:
    """MLX's `quantization` block, taken out of `raw` with its copy for the hub; None for a dense model.

    Raises: InputError when another tool quantised the weights.
    """
    if (folder / _MODELOPT).is_file():
        raise InputError(
            tr(
                "{folder}: its weights are quantised by ModelOpt ({modelopt}); give the original checkpoint",
                folder=folder,
                modelopt=_MODELOPT,
            )
        )
    refuse_foreign_quantization(raw, str(folder / "config.json"))
    block = raw.get("quantization")
    if not isinstance(block, dict) or raw.get("quantization_config", block) != block:
        return None
    raw.pop("quantization_config", None)
    return raw.pop("quantization")


def main_dtype(entries: dict[str, TensorEntry]) -> str:
    """The storage type that holds most of the weights; in a quantised folder, that of scales and norms."""
    elements: dict[str, int] = {}
    for entry in entries.values():
        if entry.dtype in STORAGE:
            elements[entry.dtype] = elements.get(entry.dtype, 0) + entry.n_elements
    return max(elements, key=lambda dtype: elements[dtype])


def _with_prefix(entries: dict[str, TensorEntry], raw: dict[str, Any]) -> tuple[dict[str, TensorEntry], dict[str, Any]]:
    """A model saved without its head (Qwen3-Embedding) under the names that it has with one.

    The larger ones say that their head is not tied, yet have none: nothing is read from it, so the embedding stands in.
    """
    renamed = {f"model.{name}": replace(entry, name=f"model.{name}") for name, entry in entries.items()}
    return renamed, raw | {"tie_word_embeddings": True}


def _decide_head(
    entries: dict[str, TensorEntry], raw: Mapping[str, Any], architecture: names.Architecture, of_mlx: bool
) -> str:
    """Bring the head in `entries` to what the model runs with. Returns: `own`, `copy` (dropped) or `none`.

    transformers ties only a head that the file does not hold, or that is the embedding's copy; mlx-lm drops any head of
    a tied model, so that of an MLX folder (`of_mlx`) goes.
    """
    embedding, head = entries.get(architecture.embedding), entries.get(architecture.head)
    tied = bool(raw.get("tie_word_embeddings"))
    if architecture.always_own_head and tied and head is None and embedding is not None:
        entries[architecture.head] = replace(embedding, name=architecture.head)
        return "none"
    if head is None or embedding is None:
        return "none"
    if architecture.always_own_head:
        return "none" if same_values(head, embedding) else "own"
    if tied and (of_mlx or same_values(head, embedding)):
        del entries[architecture.head]
        return "copy"
    return "own"


def _notes(prefixes: Sequence[str], own_head: str, raw: Mapping[str, Any]) -> tuple[str, ...]:
    """What was taken otherwise than the files say, a sentence each."""
    notes = [f"tensor names began with {', '.join(prefixes)}, which was taken off"] if prefixes else []
    if own_head:
        notes.append(
            tr(
                "{own_head} is not the embedding's copy, so it is kept and the output says that nothing is tied, as "
                "transformers reads it",
                own_head=own_head,
            )
        )
    unused = unused_fields(raw)
    if unused:
        notes.append(tr("fields not used: {unused}", unused=", ".join(unused)))
    return tuple(notes)


def _configuration_file(folder: Path) -> Path:
    """The folder's config.json. Raises: InputError when there is none."""
    where = folder / "config.json"
    if where.is_file():
        return where
    raise InputError(
        tr("{folder}: has no config.json, so it is not a model folder; give the folder that holds it", folder=folder)
    )


def read_folder(folder: Path) -> Checkpoint:
    """The checkpoint in `folder`; its configuration is completed, no weight is read yet.

    A tied model that stores a copy of its head loses that copy, as every loader does.

    Raises:
        InputError: no config.json, an unsupported architecture, or damaged, missing or surplus files or tensors.
    """
    refuse_links_out(folder, _NAMES)
    where = _configuration_file(folder)
    raw = read_object(where)
    if raw.get("model_type") in ENCODERS:
        from converters.encoder import read_encoder

        shards, promised = _shards(folder)
        entries, _ = _entries(folder, shards, promised, packed=False)
        return read_encoder(folder, raw, entries, main_dtype(entries), (where, *shards))
    whole, raw = raw, text_configuration(raw)
    architecture = names.architecture_of(raw.get("model_type"), str(where))
    shards, promised = _shards(folder)
    quantization = _mlx_quantization(raw, folder)
    entries, unread = _entries(folder, shards, promised, packed=quantization is not None)
    entries, prefixes = unwrapped(entries, str(folder))
    dtype = main_dtype(entries)
    if names.EMBEDDING.removeprefix("model.") in entries:
        entries, raw = _with_prefix(entries, raw)
    if quantization is not None:
        from converters.readers.mlx_quantized import join_quantized

        entries = join_quantized(entries, quantization, str(folder))
    entries, others = text_part(entries, architecture)
    entries = stacked(entries, str(folder))
    head = _decide_head(entries, raw, architecture, of_mlx=quantization is not None)
    unread += [architecture.head] if head == "copy" else []
    notes = _notes(prefixes, architecture.head if head == "own" and raw.get("tie_word_embeddings") else "", raw)
    config = from_hugging_face(raw, architecture.head in entries, str(where))
    names.check_tensors({name: entry.shape for name, entry in entries.items()}, config, str(folder))
    generation = folder / "generation_config.json"
    return Checkpoint(
        source=folder,
        config=config,
        generation_config=read_object(generation) if generation.is_file() else None,
        entries=tuple(entries.values()),
        dtype=dtype,
        files=(where, *shards),
        tokenizer_files=tokenizer_files(folder),
        raw=raw,
        packed=quantization is not None,
        unread=tuple(unread),
        notes=notes,
        others=others,
        whole=whole,
    )
