"""How a vocabulary spells bytes: GPT-2's alphabet of byte-level BPE, and sentencepiece's byte fallback."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from mlx_loopai.errors import InputError
from mlx_loopai.language import tr

WORD_START = "\u2581"
BYTE_TOKENS = tuple(f"<0x{byte:02X}>" for byte in range(256))
# What Korean and English text is made of: ASCII, the first bytes of Hangul and its signs, and the later bytes of all.
_WRITTEN = (*range(0x20, 0x7F), *range(0x80, 0xC0), 0xE2, 0xE3, *range(0xEA, 0xEE))
_BEYOND_ALPHABET = 0x200


def byte_alphabet() -> list[str]:
    """The character for each byte: itself where it is visible, else the next free one from U+0100 on.

    Source: GPT-2's byte-level BPE (Radford et al. 2019), kept by every later one.
    """
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    free = iter(range(0x100, 0x200))
    return [chr(byte) if byte in visible else chr(next(free)) for byte in range(256)]


def is_byte_level(words: Collection[str]) -> bool:
    """Whether the tokens of a vocabulary, without its added ones, are spelled in the alphabet of byte-level BPE.

    All 256 bytes need not be tokens: a vocabulary that was learnt without that rule (SmolLM2's) lacks those that its
    texts did not hold, such as F5, which no text holds. But with the usual ones any Korean text can be written.
    """
    alphabet = byte_alphabet()
    if not all(alphabet[byte] in words for byte in _WRITTEN):
        return False
    known = np.zeros(_BEYOND_ALPHABET + 1, np.bool_)
    known[[ord(char) for char in alphabet]] = True
    # In NumPy, since a set of a million characters takes longer than a table of states.
    used = np.frombuffer("".join(words).encode("utf-32-le", "surrogatepass"), "<u4")
    return bool(known[np.minimum(used, _BEYOND_ALPHABET)].all())


def bytes_of_tokens(words: Mapping[int, str], where: str) -> dict[int, bytes]:
    """The bytes of each token (id -> bytes) of a vocabulary without its added tokens (id -> how it is spelled).

    Raises: InputError naming `where` for a vocabulary of neither kind.
    """
    spelled = set(words.values())
    if spelled.issuperset(BYTE_TOKENS):
        raw = {token: bytes([byte]) for byte, token in enumerate(BYTE_TOKENS)}
        return {index: raw.get(token) or token.replace(WORD_START, " ").encode() for index, token in words.items()}
    if not is_byte_level(spelled):
        raise InputError(
            tr(
                "{where}: the vocabulary is neither byte-level BPE nor sentencepiece with byte fallback, so its "
                "tokens have no bytes; give another tokenizer",
                where=where,
            )
        )
    codes = {char: byte for byte, char in enumerate(byte_alphabet())}
    return {index: bytes(codes[char] for char in token) for index, token in words.items()}
