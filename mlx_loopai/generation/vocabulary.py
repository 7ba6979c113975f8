"""The bytes that a tokenizer's tokens stand for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import regex

from mlx_loopai.errors import InputError
from mlx_loopai.language import tr
from mlx_loopai.models.token_bytes import BYTE_TOKENS, WORD_START, byte_alphabet, is_byte_level
from mlx_loopai.text.utf8 import TokenBytes
from mlx_loopai.text.words import is_unit_or_acronym

_MIN_WORD_LETTERS = 3
_LATIN_WORD = regex.compile(rf"\p{{Latin}}{{{_MIN_WORD_LETTERS},}}")


def token_bytes(tokenizer: Any) -> TokenBytes:
    """The bytes of each token; none for added tokens (chat marks, end of text) and for ids without a token.

    Knows byte-level BPE (GPT-2's alphabet: Qwen, Llama 3, SmolLM2) and sentencepiece with byte fallback (Llama 2,
    Mistral).
    Raises: InputError for any other kind.
    """
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    added = set(tokenizer.added_tokens_decoder)
    words = {token: index for token, index in vocabulary.items() if index not in added}
    tokens = [b""] * (max(vocabulary.values()) + 1)
    if all(token in vocabulary for token in BYTE_TOKENS):
        for token, index in words.items():
            tokens[index] = token.replace(WORD_START, " ").encode()
        for byte, token in enumerate(BYTE_TOKENS):
            tokens[vocabulary[token]] = bytes([byte])
        return TokenBytes.of(tokens)
    if not is_byte_level(words):
        raise InputError(
            tr(
                "the tokenizer is neither byte-level BPE nor sentencepiece with byte fallback, so its tokens "
                "have no bytes to constrain; give `scripts` off"
            )
        )
    # Joined and encoded at once: each character of this alphabet is one byte.
    encoded = np.frombuffer(
        "".join(words).translate(alphabet_codes(byte_alphabet())).encode("latin-1", "replace"), np.uint8
    )
    ids = np.fromiter(words.values(), np.int64, len(words))
    lengths = np.fromiter(map(len, words), np.int64, len(words))
    return _in_order(encoded, ids, lengths, len(tokens))


def _in_order(
    data: npt.NDArray[np.uint8], ids: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], n_tokens: int
) -> TokenBytes:
    """The tokens `ids`, whose bytes lie one after another in `data`, put in the order of their ids."""
    order = np.argsort(ids)
    sizes = lengths[order]
    shift = (np.cumsum(lengths) - lengths)[order] - (np.cumsum(sizes) - sizes)
    length = np.zeros(n_tokens, dtype=np.int64)
    length[ids] = lengths
    return TokenBytes(data[np.repeat(shift, sizes) + np.arange(len(data))], length)


def alphabet_codes(alphabet: Iterable[str]) -> dict[int, int]:
    return {ord(char): byte for byte, char in enumerate(alphabet)}


def biased_tokens(tokens: TokenBytes) -> npt.NDArray[np.bool_]:
    """Which tokens (V) hold Latin words, of three letters and more, that are neither units nor in capitals."""
    # One text with a zero after each token: a call of the pattern for each would take half a second.
    marked = np.zeros(len(tokens.data) + len(tokens.length), dtype=np.uint8)
    ends = tokens.start + tokens.length + np.arange(len(tokens.length))
    inside = np.ones(len(marked), dtype=np.bool_)
    inside[ends] = False
    marked[inside] = np.maximum(tokens.data, 1)
    text = marked.tobytes().decode("utf-8", "ignore")
    places = [found.start() for found in _LATIN_WORD.finditer(text) if not _is_short_form(found.group())]
    codes = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    biased = np.zeros(len(tokens.length), dtype=np.bool_)
    biased[np.searchsorted(np.flatnonzero(codes == 0), places)] = True
    return biased


def latin_words(text: str) -> list[str]:
    """The Latin words of three letters and more."""
    return _LATIN_WORD.findall(text)


def _is_short_form(word: str) -> bool:
    return word.isupper() or is_unit_or_acronym(word)
