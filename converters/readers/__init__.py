"""Readers: each turns a source into a `Checkpoint`; only headers are read until a tensor is asked for."""

from __future__ import annotations

from pathlib import Path

from converters.tensors import Checkpoint
from mlx_loopai.errors import InputError
from mlx_loopai.language import tr


def open_checkpoint(source: str | Path, revision: str | None = None) -> Checkpoint:
    """The checkpoint in a Hugging Face folder, a GGUF file or behind a hub id; `revision` is a hub id's.

    Raises:
        InputError: nothing is there, or what is there is damaged or not supported.
    """
    path = Path(source)
    if revision is not None and path.exists():
        raise InputError(
            tr(
                "`revision` {revision}: {source} is a local path; leave `revision` out",
                revision=revision,
                source=source,
            )
        )
    if path.is_dir():
        from converters.readers.huggingface import read_folder

        return read_folder(path)
    if path.is_file():
        if path.suffix == ".safetensors":
            raise InputError(
                tr(
                    "{path}: is one file of a model; give its folder {parent}, which holds config.json",
                    path=path,
                    parent=path.parent,
                )
            )
        from converters.readers.gguf_model import read_gguf

        return read_gguf(path)
    from mlx_loopai.models.hub import download, is_hub_id

    if not is_hub_id(source):
        raise InputError(
            tr(
                "{source}: no such folder or file; give a model folder, a GGUF file or a hub id (name/model)",
                source=source,
            )
        )
    from converters.readers.huggingface import read_folder

    return read_folder(download(str(source), revision, torch_too=True))
