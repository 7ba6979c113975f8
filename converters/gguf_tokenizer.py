"""Rebuilds tokenizer.json from a GGUF file's metadata.

A GGUF file holds the vocabulary, the merges or scores, each token's type and the name of the pre-tokenizer, but not its
regular expression, which `splits` has. Sources: the GGUF specification
(tokenizer.ggml.*), llama.cpp's list of pre-tokenizers, and the tokenizer.json files of Qwen2.5 and Llama 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from converters.json_files import write_object
from converters.splits import SPLITS
from mlx_loopai.errors import InputError
from mlx_loopai.language import tr

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = range(1, 6)
_SPACE = "▁"


def rebuild_tokenizer(metadata: Mapping[str, Any], where: str, folder: Path) -> tuple[Path, ...]:
    """Write tokenizer.json and tokenizer_config.json into `folder`. Returns: their paths.

    Raises:
        InputError: the metadata is damaged, or names a tokenizer that cannot be rebuilt.
    """
    model = metadata.get("tokenizer.ggml.model")
    tokens, kinds = _tokens(metadata, where)
    try:
        if model == "gpt2":
            tokenizer = _byte_level(metadata, tokens, kinds, where)
        elif model == "llama":
            tokenizer = _sentencepiece(metadata, tokens, kinds, where)
        else:
            raise _unsupported(where, f"the tokenizer model {model!r}")
        tokenizer.add_tokens(_added(tokens, kinds))
        _add_ends(tokenizer, metadata, tokens, starts_by_default=_starts_by_default(metadata))
        tokenizer.save(str(folder / "tokenizer.json"))
    except InputError:
        raise
    # The tokenizers library raises bare Exceptions.
    except Exception as error:
        raise InputError(
            tr("{where}: its tokenizer is damaged ({reason})", where=where, reason=" ".join(str(error).split())[:200])
        ) from None
    write_object(folder / "tokenizer_config.json", _settings(metadata, tokens))
    return folder / "tokenizer.json", folder / "tokenizer_config.json"


def _starts_by_default(metadata: Mapping[str, Any]) -> bool:
    """Whether llama.cpp puts the BOS token in front where the file does not say."""
    split = SPLITS.get(metadata.get("tokenizer.ggml.pre") or "")
    return metadata.get("tokenizer.ggml.model") == "llama" or (split is not None and split.begins)


def _unsupported(where: str, what: str) -> InputError:
    return InputError(
        tr(
            "{where}: {what} cannot be rebuilt (gpt2 with {splits}, and llama can); give the folder of the model's "
            "tokenizer.json with `tokenizer` DIR",
            where=where,
            what=what,
            splits=", ".join(SPLITS),
        )
    )


def _tokens(metadata: Mapping[str, Any], where: str) -> tuple[tuple[str, ...], list[int]]:
    """The token strings by id, and the kind of each."""
    tokens, kinds = metadata.get("tokenizer.ggml.tokens"), metadata.get("tokenizer.ggml.token_type")
    if not isinstance(tokens, tuple) or not tokens:
        raise _unsupported(where, "a tokenizer without a list of tokens")
    if not isinstance(kinds, np.ndarray) or len(kinds) != len(tokens):
        raise _unsupported(where, "a tokenizer that does not say of every token what kind it is")
    return tokens, [int(kind) for kind in kinds]


def _byte_level(metadata: Mapping[str, Any], tokens: tuple[str, ...], kinds: list[int], where: str) -> Tokenizer:
    split = metadata.get("tokenizer.ggml.pre")
    if split not in SPLITS:
        raise _unsupported(where, f"the way {split!r} of splitting text")
    merges = metadata.get("tokenizer.ggml.merges")
    if not isinstance(merges, tuple):
        raise _unsupported(where, "a gpt2 tokenizer without merges")
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    # Chat tokens too, so that each keeps its id; fillers that only widen the embedding are not tokens.
    vocabulary = {token: number for number, token in enumerate(tokens) if kinds[number] != _UNUSED}
    way = SPLITS[split]
    tokenizer = Tokenizer(models.BPE(vocabulary, pairs, ignore_merges=way.whole_words))
    if way.normalizer is not None:
        tokenizer.normalizer = way.normalizer
    tokenizer.pre_tokenizer = way.pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(metadata: Mapping[str, Any], tokens: tuple[str, ...], kinds: list[int], where: str) -> Tokenizer:
    scores = metadata.get("tokenizer.ggml.scores")
    if not isinstance(scores, np.ndarray) or len(scores) != len(tokens):
        raise _unsupported(where, "a llama tokenizer without a score for every token")
    vocabulary = {token: number for number, token in enumerate(tokens)}
    unknown = next((token for token, kind in zip(tokens, kinds, strict=True) if kind == _UNKNOWN), None)
    not_text = {
        token for token, kind in zip(tokens, kinds, strict=True) if kind != _NORMAL and not _is_spaces(token, kind)
    }
    pairs = _merges(vocabulary, scores, not_text)
    tokenizer = Tokenizer(models.BPE(vocabulary, pairs, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    steps: list[Any] = [normalizers.Replace(" ", _SPACE)]
    ends: list[Any] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if metadata.get("tokenizer.ggml.add_space_prefix", True):
        steps.insert(0, normalizers.Prepend(_SPACE))
        ends.append(decoders.Strip(" ", 1, 0))
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.decoder = decoders.Sequence(ends)
    return tokenizer


def _merges(vocabulary: Mapping[str, int], scores: np.ndarray, not_text: set[str]) -> list[tuple[str, str]]:
    """Merges that join pieces in SentencePiece's order: the piece with the highest score first."""
    found = []
    for piece, number in vocabulary.items():
        if piece in not_text:
            continue
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in vocabulary and right in vocabulary:
                found.append((-float(scores[number]), number, vocabulary[left], vocabulary[right], left, right))
    return [(left, right) for *_, left, right in sorted(found)]


def _is_spaces(token: str, kind: int) -> bool:
    """Whether it is a run of spaces, as Gemma's vocabulary lists them: pieces that join, not names in a text."""
    return kind == _USER_DEFINED and not token.strip(_SPACE)


def _added(tokens: tuple[str, ...], kinds: list[int]) -> list[AddedToken]:
    """Tokens that are found in a text before it is split."""
    return [
        AddedToken(token, special=kind == _CONTROL, normalized=False)
        for token, kind in zip(tokens, kinds, strict=True)
        if kind in (_CONTROL, _USER_DEFINED) and not _is_spaces(token, kind)
    ]


def _special(metadata: Mapping[str, Any], tokens: tuple[str, ...], name: str) -> str | None:
    number = metadata.get(f"tokenizer.ggml.{name}_token_id")
    return tokens[number] if isinstance(number, int) and 0 <= number < len(tokens) else None


def _add_ends(
    tokenizer: Tokenizer, metadata: Mapping[str, Any], tokens: tuple[str, ...], starts_by_default: bool
) -> None:
    """Make the tokenizer add the BOS and EOS tokens that the file asks for."""
    start, end = _special(metadata, tokens, "bos"), _special(metadata, tokens, "eos")
    first = [start] if start and metadata.get("tokenizer.ggml.add_bos_token", starts_by_default) else []
    last = [end] if end and metadata.get("tokenizer.ggml.add_eos_token", False) else []
    if not first and not last:
        return
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[*first, "$A", *last],
        pair=[*first, "$A", *last, *[f"{token}:1" for token in first], "$B:1", *[f"{token}:1" for token in last]],
        special_tokens=[(token, tokens.index(token)) for token in {*first, *last}],
    )


def _settings(metadata: Mapping[str, Any], tokens: tuple[str, ...]) -> dict[str, Any]:
    """tokenizer_config.json."""
    # `PreTrainedTokenizerFast` takes tokenizer.json as it is; a model's own class would build some parts anew.
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        token = _special(metadata, tokens, key)
        if token is not None:
            settings[f"{name}_token"] = token
    template = metadata.get("tokenizer.chat_template")
    if isinstance(template, str):
        settings["chat_template"] = template
    return settings
