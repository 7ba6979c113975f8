"""Tokenises texts, many in one call: hidden names of control tokens stay text, marks of pictures stay marks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlx_loopai.data.byte_pairs import BytePairs
from mlx_loopai.data.sight import divided
from mlx_loopai.data.special import SpecialNames

# Where transformers has the code that its tokenizers share. What one of them does otherwise is in a module of its own.
_COMMON_CODE = "transformers.tokenization_utils"


def text_ids(
    tokenizer: Any, special: SpecialNames, texts: Sequence[str], quick: BytePairs | None = None
) -> list[list[int]]:
    """The tokens of each text, as if it stood alone; the picture of number k is the token -1 - k.

    tokenizer: as in `ChatEncoder`. quick: `byte_pairs` of it. One call for many texts costs less than one for each, and
    uses every core.
    """
    # What it takes is one piece: it takes no characters for private use.
    found = {text: ids for text in dict.fromkeys(texts) if quick and (ids := quick.ids(text)) is not None}
    parts = {text: _parts(text, special) for text in texts if text not in found}
    pieces = list({piece: None for one in parts.values() for piece in one if isinstance(piece, str)})
    ids_of = dict(zip(pieces, _encoded(tokenizer, pieces), strict=True))
    found |= {text: _joined(one, ids_of) for text, one in parts.items()}
    return [found[text] for text in texts]


def _parts(text: str, special: SpecialNames) -> list[str | int]:
    """`text` in pieces that are safe to tokenise one by one, and the tokens of pictures between them."""
    parts: list[str | int] = []
    for part in divided(text):
        if isinstance(part, int):
            parts.append(-1 - part)
        else:
            parts += special.pieces(part)
    return parts


def _joined(parts: Sequence[str | int], ids: dict[str, list[int]]) -> list[int]:
    if len(parts) == 1 and isinstance(parts[0], str):
        return ids[parts[0]]
    return [token for part in parts for token in (ids[part] if isinstance(part, str) else (part,))]


def byte_pairs(tokenizer: Any) -> BytePairs | None:
    """The same tokenizer, run by tiktoken; None where the same tokens are not certain."""
    inner = _inner(tokenizer)
    if not _only_calls_its_backend(inner):
        return None
    inner.encode("", add_special_tokens=False)  # puts its settings into the backend
    return BytePairs.of(inner.backend_tokenizer)


def _inner(tokenizer: Any) -> Any:
    """The tokenizer inside mlx-lm's wrapper, which takes one text only."""
    return getattr(tokenizer, "_tokenizer", tokenizer)


def _encoded(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    inner = _inner(tokenizer)
    if len(texts) > 1 and _only_calls_its_backend(inner):
        # Before its own call transformers puts its settings, such as no truncation, into the backend.
        first = inner.encode(texts[0], add_special_tokens=False)
        others = inner.backend_tokenizer.encode_batch_fast(texts[1:], add_special_tokens=False)
        return [first, *(one.ids for one in others)]
    if len(texts) > 1 and callable(inner):
        return inner(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
    return [tokenizer.encode(text, add_special_tokens=False) for text in texts]


def _only_calls_its_backend(tokenizer: Any) -> bool:
    """Whether it encodes as transformers' own tokenizers do: settings, then the backend, nothing else.

    The backend can be called without the offsets that nobody reads here: an eighth of the whole time of encoding.
    """
    ways = [getattr(type(tokenizer), name, None) for name in ("encode", "__call__", "_encode_plus")]
    return hasattr(tokenizer, "backend_tokenizer") and all(
        getattr(way, "__module__", "").startswith(_COMMON_CODE) for way in ways
    )
