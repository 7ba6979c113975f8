"""How a vocabulary spells bytes: GPT-2's alphabet of byte-level BPE, and sentencepiece's byte fallback."""

from __future__ import annotations

from collections.abc import Mapping

from mlx_loopai.errors import InputError
from mlx_loopai.language import tr

WORD_START = "\u2581"
BYTE_TOKENS = tuple(f"<0x{byte:02X}>" for byte in range(256))


def byte_alphabet() -> list[str]:
    """The character for each byte: itself where it is visible, else the next free one from U+0100 on.

    Source: GPT-2's byte-level BPE (Radford et al. 2019), kept by every later one.
    """
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    free = iter(range(0x100, 0x200))
    return [chr(byte) if byte in visible else chr(next(free)) for byte in range(256)]


def bytes_of_tokens(words: Mapping[int, str], where: str) -> dict[int, bytes]:
    """The bytes of each token (id -> bytes) of a vocabulary without its added tokens (id -> how it is spelled).

    Raises: InputError naming `where` for a vocabulary of neither kind.
    """
    spelled = set(words.values())
    if spelled.issuperset(BYTE_TOKENS):
        raw = {token: bytes([byte]) for byte, token in enumerate(BYTE_TOKENS)}
        return {index: raw.get(token) or token.replace(WORD_START, " ").encode() for index, token in words.items()}
    codes = {char: byte for byte, char in enumerate(byte_alphabet())}
    if not spelled.issuperset(codes):
        raise InputError(
            tr(
                "{where}: the vocabulary is neither byte-level BPE nor sentencepiece with byte fallback, so its "
                "tokens have no bytes; give another tokenizer",
                where=where,
            )
        )
    return {index: bytes(codes[char] for char in token if char in codes) for index, token in words.items()}
