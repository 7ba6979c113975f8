"""The tokenizer's files: which ones belong to a model, and whether they fit it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converters.gguf_tokenizer import rebuild_tokenizer
from converters.tensors import Checkpoint
from converters.tokenizer_check import read_tokenizer_file, require_opens
from mlx_loopai.errors import InputError
from mlx_loopai.files import refuse_links_out
from mlx_loopai.language import tr
from mlx_loopai.models.encoder import ENCODERS

_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "vocab.txt",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
    "chat_template.json",
)


def tokenizer_files(folder: Path) -> tuple[Path, ...]:
    """The tokenizer's files in `folder`; empty when it holds none that could encode a text."""
    refuse_links_out(folder, _FILES)
    found = tuple(folder / name for name in _FILES if (folder / name).is_file())
    names = {path.name for path in found}
    alone = {"tokenizer.json", "tokenizer.model", "vocab.txt", "sentencepiece.bpe.model"}
    complete = bool(names & alone) or {"vocab.json", "merges.txt"} <= names
    return found if complete else ()


def choose_tokenizer(checkpoint: Checkpoint, folder: Path | None, scratch: Path) -> tuple[Path, ...]:
    """The files of the tokenizer in `folder`, or of the checkpoint's own when `folder` is None, checked for fit.

    A GGUF file's own is rebuilt from its metadata into the folder `scratch`.

    Raises:
        InputError: there is none, or it does not fit the model's embedding or the vocabulary that the source lists.
    """
    if folder is not None and not folder.is_dir():
        raise InputError(
            tr("{folder}: no such folder; `tokenizer` needs the folder that holds tokenizer.json", folder=folder)
        )
    if folder is not None:
        files = tokenizer_files(folder)
    elif checkpoint.gguf_metadata is not None:
        files = rebuild_tokenizer(checkpoint.gguf_metadata, str(checkpoint.source), scratch)
    else:
        files = checkpoint.tokenizer_files
    if not files:
        if folder is not None:
            raise InputError(
                tr("{folder}: holds no tokenizer.json; give `tokenizer` the folder that does", folder=folder)
            )
        raise InputError(
            tr(
                "{source}: holds no tokenizer that can be copied; give the folder of the model's tokenizer.json "
                "with `tokenizer` DIR",
                source=checkpoint.source,
            )
        )
    for path in files:
        if path.name == "tokenizer.json":
            _check_fit(path, checkpoint)
    if checkpoint.config["model_type"] not in ENCODERS:
        require_opens(files, checkpoint.config, scratch)
    return files


def vocabulary(path: Path) -> dict[int, str]:
    """Token strings by id, added tokens included, of a tokenizer.json."""
    tokenizer = read_tokenizer_file(path)
    model = tokenizer.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    tokens: dict[int, str] = {}
    if isinstance(vocabulary, dict):
        tokens = {number: token for token, number in vocabulary.items() if isinstance(number, int)}
    elif isinstance(vocabulary, list):
        tokens = {number: entry[0] for number, entry in enumerate(vocabulary) if isinstance(entry, list) and entry}
    if not tokens:
        raise InputError(tr("{path}: lists no vocabulary; get a fresh copy of the tokenizer", path=path))
    return tokens | added_tokens(tokenizer)


def added_tokens(tokenizer: Mapping[str, Any]) -> dict[int, str]:
    """The added tokens by id (chat marks, end of text) of a tokenizer.json's content."""
    listed = [added for added in tokenizer.get("added_tokens") or () if isinstance(added, dict)]
    return {added["id"]: str(added.get("content")) for added in listed if isinstance(added.get("id"), int)}


def _check_fit(path: Path, checkpoint: Checkpoint) -> None:
    tokens = vocabulary(path)
    rows = checkpoint.config["vocab_size"]
    if max(tokens) >= rows:
        raise InputError(
            tr(
                "{path}: has the token id {tokens} but the model's embedding has {rows} rows; it is the "
                "tokenizer of another model",
                path=path,
                tokens=max(tokens),
                rows=rows,
            )
        )
    listed = checkpoint.vocabulary
    if listed is None:
        return
    wrong = [number for number, token in sorted(tokens.items()) if number >= len(listed) or listed[number] != token]
    if wrong:
        first = wrong[0]
        theirs = repr(listed[first]) if first < len(listed) else "nothing"
        raise InputError(
            tr(
                "{path}: {n_wrong} of {n_tokens} tokens differ from those that {name} lists (id {first}: "
                "{tokens!r} here, {theirs} there); it is the tokenizer of another model",
                path=path,
                n_wrong=len(wrong),
                n_tokens=len(tokens),
                name=checkpoint.source.name,
                first=first,
                tokens=tokens[first],
                theirs=theirs,
            )
        )
