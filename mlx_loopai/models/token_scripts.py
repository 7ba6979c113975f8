"""Which scripts a token writes, by the role of its bytes in UTF-8.

A fifth of the tokens of Korean text are not whole characters, since byte-level BPE cuts syllables. So a token writes a
script when it holds a letter of it, or the first bytes of a character that almost certainly belongs to it (E5 begins
Han only). Three kinds of tokens write no script: one that holds Hangul, a piece that may also begin Hangul, and the
later bytes of a character.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import regex

# In the order in which they are looked for; `\p{Han}` holds iteration marks too.
SCRIPTS = ("han", "kana", "latin", "cyrillic", "arabic", "thai", "devanagari", "hebrew", "greek")
_HANGUL = "hangul"
_LETTERS = {
    "han": r"\p{Han}",
    "kana": r"[\p{Hiragana}\p{Katakana}]",
    _HANGUL: r"\p{Hangul}",
    **{name: rf"\p{{{name.capitalize()}}}" for name in SCRIPTS[2:]},
}
_PATTERN = regex.compile("|".join(f"(?P<{name}>{pattern})" for name, pattern in _LETTERS.items()))
_LETTER = regex.compile(r"\p{L}")
_COMMON = regex.compile(r"[\p{Common}\p{Inherited}]")
_ASSIGNED = regex.compile(r"\P{Cn}")
_ASCII_LETTER = re.compile("[A-Za-z]")
# Not all, since E4 begins 4,032 ideographs and 64 hexagrams; but most, since F0 9F begins emoji and few letters.
_LEAST_SHARE = 0.9
_LATIN = frozenset(("latin",))
_CONTINUES = range(0x80, 0xC0)


def scripts_written(token: bytes) -> frozenset[str]:
    """The scripts, of `SCRIPTS`, that a token of these bytes writes; none for one that Korean text shares."""
    if token.isascii():
        return _LATIN if _ASCII_LETTER.search(token.decode()) else frozenset()
    found = {name for char in set(token.decode("utf-8", "ignore")) if (name := _script_of(char))}
    found |= _begun(_unfinished(token))
    return frozenset() if _HANGUL in found else frozenset(found)


def row_factors(tokens: Mapping[int, bytes], factors: Mapping[str, float], n_rows: int) -> npt.NDArray[np.float32]:
    """The factor (V,) of each row of the head: the smallest of the scripts that its token writes, 1 for none."""
    found = np.ones(n_rows, np.float32)
    for index, token in tokens.items():
        named = scripts_written(token) & factors.keys()
        if named:
            found[index] = min(factors[script] for script in named)
    return found


@lru_cache(maxsize=1 << 16)
def _script_of(char: str) -> str | None:
    """The script of a letter; None for another character and for a letter of none of these."""
    match = _PATTERN.match(char) if _LETTER.match(char) else None
    return match.lastgroup if match else None


def _unfinished(token: bytes) -> bytes:
    """The beginning of a character with which the token ends, or nothing."""
    for length in range(1, min(4, len(token) + 1)):
        lead = token[-length]
        if lead in _CONTINUES:
            continue
        n_bytes = 4 if lead >= 0xF0 else 3 if lead >= 0xE0 else 2 if lead >= 0xC0 else 1
        return token[-length:] if n_bytes > length else b""
    return b""


@lru_cache(maxsize=1 << 10)
def _begun(piece: bytes) -> frozenset[str]:
    """The script of nearly all characters that begin with `piece`; none when letters of another do too."""
    if not piece:
        return frozenset()
    letters: Counter[str | None] = Counter()
    assigned = 0
    for char in _characters(piece):
        assigned += _ASSIGNED.match(char) is not None
        if _LETTER.match(char) and not _COMMON.match(char):
            letters[_script_of(char)] += 1
    if len(letters) != 1 or sum(letters.values()) < _LEAST_SHARE * assigned:
        return frozenset()
    (script,) = letters
    return frozenset() if script is None else frozenset((script,))


def _characters(piece: bytes) -> Iterator[str]:
    """Every character whose UTF-8 begins with `piece`."""
    n_bytes = 4 if piece[0] >= 0xF0 else 3 if piece[0] >= 0xE0 else 2
    lead_bits = piece[0] & (0xFF >> (n_bytes + 1))
    known = lead_bits
    for byte in piece[1:]:
        known = known << 6 | byte & 0x3F
    shift = 6 * (n_bytes - len(piece))
    least = {2: 0x80, 3: 0x800, 4: 0x10000}[n_bytes]
    for code in range(max(least, known << shift), min(0x110000, (known + 1) << shift)):
        if not 0xD800 <= code < 0xE000:
            yield chr(code)
