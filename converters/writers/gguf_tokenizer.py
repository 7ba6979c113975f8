"""A tokenizer.json as GGUF metadata: tokens, their types, merges, special ids and the chat template."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf

from converters.json_files import read_object
from converters.splits import split_name
from converters.tensors import Checkpoint
from mlx_loopai.errors import InputError
from mlx_loopai.language import tr

_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = (
    gguf.TokenType.NORMAL,
    gguf.TokenType.CONTROL,
    gguf.TokenType.USER_DEFINED,
    gguf.TokenType.UNUSED,
    gguf.TokenType.BYTE,
)
_SPACE = "\u2581"


def add_tokenizer(writer: gguf.GGUFWriter, files: Sequence[Path], checkpoint: Checkpoint, work: Path) -> None:
    """Put the tokenizer in `files` into the metadata; `work` is a folder for copies of them.

    Raises:
        InputError: it is not a BPE tokenizer.json, or llama.cpp does not know its pre-tokenizer.
    """
    path = next((file for file in files if file.name == "tokenizer.json"), None)
    if path is None:
        raise InputError(
            tr(
                "{source}: GGUF needs a tokenizer.json; give the folder that has one with `tokenizer` DIR",
                source=checkpoint.source,
            )
        )
    document = read_object(path)
    model = document.get("model")
    if not isinstance(model, dict) or model.get("type") != "BPE" or not isinstance(model.get("vocab"), dict):
        raise InputError(
            tr("{path}: is not a BPE tokenizer, the only kind written to GGUF; use `to` hf or `to` mlx", path=path)
        )
    tokens, types = _tokens(document, checkpoint.config["vocab_size"], str(path))
    if model.get("byte_fallback"):
        writer.add_tokenizer_model("llama")
        writer.add_token_scores(_scores(tokens, model))
        writer.add_add_space_prefix(_begins_with_a_space(document, str(path)))
    else:
        split = split_name(document)
        if split is None:
            raise InputError(
                tr(
                    "{path}: llama.cpp does not know this tokenizer's way of splitting words; use `to` hf or mlx",
                    path=path,
                )
            )
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(split)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    _add_special(writer, files, checkpoint, work, with_merges=not model.get("byte_fallback"))


def _tokens(document: Mapping[str, Any], rows: int, where: str) -> tuple[list[str], list[int]]:
    """Text and type of each of the embedding's rows; rows beyond the vocabulary are padding."""
    tokens = [f"[PAD{number}]" for number in range(rows)]
    types: list[int] = [_UNUSED] * rows
    bytes_too = bool(document["model"].get("byte_fallback"))
    for token, number in document["model"]["vocab"].items():
        is_byte = bytes_too and len(token) == 6 and token.startswith("<0x") and token.endswith(">")
        tokens[number], types[number] = token, _BYTE if is_byte else _NORMAL
    for added in document.get("added_tokens") or ():
        if added["id"] >= rows:
            raise InputError(
                tr(
                    "{where}: the token {token!r} has the id {number}, beyond {rows} rows",
                    where=where,
                    token=added["content"],
                    number=added["id"],
                    rows=rows,
                )
            )
        tokens[added["id"]] = added["content"]
        types[added["id"]] = _CONTROL if added.get("special") else _USER_DEFINED
    return tokens, types


def _scores(tokens: Sequence[str], model: Mapping[str, Any]) -> list[float]:
    """llama.cpp joins the pair with the highest score first: minus the merge's rank gives the same order."""
    rank: dict[str, int] = {}
    for number, merge in enumerate(model.get("merges") or ()):
        text = "".join(merge) if isinstance(merge, list) else merge.replace(" ", "", 1)
        rank.setdefault(text, number)
    return [-float(rank.get(token, len(rank))) for token in tokens]


def _begins_with_a_space(document: Mapping[str, Any], where: str) -> bool:
    """Whether a text gets a space in front before pieces are joined, as Llama's tokenizers do and Gemma's do not.

    llama.cpp adds one after every special token, too; a tokenizer that adds one only at the very beginning is refused.

    Raises: InputError for a tokenizer that changes text otherwise than by writing its spaces as U+2581.
    """
    normalizer, cutter = document.get("normalizer"), document.get("pre_tokenizer")
    steps = [] if normalizer is None else normalizer.get("normalizers") or [normalizer]
    kinds = [step.get("type") for step in steps]
    if cutter is not None and cutter.get("type") == "Metaspace" and not cutter.get("split") and not kinds:
        scheme = cutter.get("prepend_scheme", "always")
        if scheme in ("always", "never"):
            return bool(scheme == "always")
    # Gemma's pre-tokenizer cuts at spaces, but the normalizer has replaced them all.
    cuts_nothing = cutter is None or (cutter.get("type") == "Split" and cutter.get("pattern") == {"String": " "})
    if cuts_nothing and kinds in (["Prepend", "Replace"], ["Replace"]) and _writes_spaces(steps[-1]):
        return len(kinds) == 2
    raise InputError(
        tr("{where}: llama.cpp does not know what this tokenizer does to a text first; use `to` hf or mlx", where=where)
    )


def _writes_spaces(step: Mapping[str, Any]) -> bool:
    return step.get("pattern") == {"String": " "} and step.get("content") == _SPACE


def _add_special(
    writer: gguf.GGUFWriter, files: Sequence[Path], checkpoint: Checkpoint, work: Path, with_merges: bool
) -> None:
    """Merges, special ids and the chat template, read by the package as llama.cpp's own converter reads them."""
    with tempfile.TemporaryDirectory(dir=work) as scratch:
        for file in files:
            shutil.copyfile(file, Path(scratch) / file.name)
        special = gguf.SpecialVocab(scratch, load_merges=with_merges, n_vocab=checkpoint.config["vocab_size"])
    for kind in ("bos", "eos", "pad"):
        known = checkpoint.config.get(f"{kind}_token_id")
        if kind not in special.special_token_ids and isinstance(known, int):
            special.special_token_ids[kind] = known
    for kind in ("bos", "eos"):
        # Where a file does not say it, llama.cpp goes by the name of the split.
        special.add_special_token.setdefault(kind, False)
    special.add_to_gguf(writer, quiet=True)
