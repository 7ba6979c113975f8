"""Tokenises texts, many in one call: hidden names of control tokens stay text, marks of pictures stay marks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlx_loopai.data.sight import divided
from mlx_loopai.data.special import SpecialNames

# Where transformers has the code that its tokenizers share. What one of them does otherwise is in a module of its own.
_COMMON_CODE = "transformers.tokenization_utils"


def text_ids(tokenizer: Any, special: SpecialNames, texts: Sequence[str]) -> list[list[int]]:
    """The tokens of each text, as if it stood alone; the picture of number k is the token -1 - k.

    tokenizer: as in `ChatEncoder`. One call for many texts costs less than one for each, and uses every core.
    """
    parts = {text: _parts(text, special) for text in texts}
    pieces = list({piece: None for found in parts.values() for piece in found if isinstance(piece, str)})
    ids = dict(zip(pieces, _encoded(tokenizer, pieces), strict=True))
    found = {text: _joined(pieces, ids) for text, pieces in parts.items()}
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


def _encoded(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    inner = getattr(tokenizer, "_tokenizer", tokenizer)  # mlx-lm's wrapper takes one text only
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
