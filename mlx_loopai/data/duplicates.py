"""Finds texts that occur in a data set more than once, word for word or nearly so.

Texts, their hashes and the groups lie in unnamed files while they are compared, so memory does not grow with the texts.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterable, Sequence
from contextlib import closing
from types import TracebackType

import numpy as np
import numpy.typing as npt

from mlx_loopai.data.key_columns import KeyColumns, Keys, nameless_file
from mlx_loopai.data.row_groups import RowGroups
from mlx_loopai.text.hangul import nfc

NEAR = 0.8
_SHINGLE_CHARS = 5
_BANDS, _ROWS = 20, 5  # finds 99.9 % of pairs at a similarity of 0.8, and few below 0.5
# Texts that are hashed together, so that numpy's calls cost little.
_TEXTS_AT_ONCE = 64

_MARKS = re.compile(r"[\W_]+")
_Hashes = npt.NDArray[np.uint32]


def normalised(text: str) -> str:
    """`text` in NFC, case folded, letters and digits only; two rows with equal results count as the same."""
    return _MARKS.sub("", nfc(text).casefold())


def exact_groups(texts: Iterable[str]) -> list[list[int]]:
    """Indices of texts that are equal after `normalised`, one list for every text that occurs more than once."""
    with TextIndex() as index:
        index.extend(texts)
        with closing(index.exact()) as groups:
            return groups.lists()


def near_groups(texts: Iterable[str], threshold: float = NEAR) -> list[list[int]]:
    """Indices of texts that are equal or nearly so (`TextIndex.join_near`), one list for every group of several."""
    with TextIndex() as index:
        index.extend(texts)
        with closing(index.exact()) as groups:
            index.join_near(groups, threshold)
            return groups.lists()


class Spool:
    """Texts in an unnamed file, read back by index; none stays in memory."""

    def __init__(self) -> None:
        self._texts, self._ends = nameless_file(), nameless_file()
        self._size = 0
        self._ends.write(_end(0))

    def append(self, text: str) -> None:
        """Take a text in at the end."""
        self._size += self._texts.write(text.encode("utf-8", "surrogatepass"))
        self._ends.write(_end(self._size))

    def __getitem__(self, place: int) -> str:
        for file in (self._texts, self._ends):
            file.flush()
        start, end = np.frombuffer(os.pread(self._ends.fileno(), 16, 8 * place), np.int64).tolist()
        return os.pread(self._texts.fileno(), end - start, start).decode("utf-8", "surrogatepass")

    def close(self) -> None:
        """Give the files back."""
        self._texts.close()
        self._ends.close()


class TextIndex:
    """Collects texts and finds those that are alike. Use it as a context manager."""

    def __init__(self) -> None:
        self._texts = Spool()
        self._bands, self._hashes = KeyColumns(_BANDS), KeyColumns(1)
        self._size = 0
        self._waiting: list[str] = []

    def __enter__(self) -> TextIndex:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the files back."""
        self._texts.close()
        self._bands.close()
        self._hashes.close()

    def __len__(self) -> int:
        return self._size

    def extend(self, texts: Iterable[str]) -> None:
        """Take texts in, one after the other."""
        for text in texts:
            self.add(text)

    def add(self, text: str) -> None:
        """Take a text in; its index is how many came before it."""
        plain = normalised(text)
        self._texts.append(plain)
        self._size += 1
        self._waiting.append(plain)
        if len(self._waiting) == _TEXTS_AT_ONCE:
            self._hash_waiting()

    def exact(self, first_texts: int | None = None) -> RowGroups:
        """The texts that are equal after `normalised`. The caller closes the groups.

        first_texts: how many texts are looked at, from the first on; all by default.
        """
        self._hash_waiting()
        groups = RowGroups(len(self) if first_texts is None else first_texts)
        for firsts, others in self._hashes.equal(0, groups.rows):
            for first, other in groups.apart(firsts, others):
                if self._texts[first] == self._texts[other]:
                    groups.join(first, other)
        return groups

    def join_near(self, groups: RowGroups, threshold: float = NEAR) -> None:
        """Join in `groups`, which `exact` gave, the texts that are nearly equal: pairs at least `threshold` alike.

        Alike is the Jaccard similarity of the sets of 5-character shingles of the normalised texts, computed exactly
        for the pairs that MinHash proposes. A text shorter than a shingle is one shingle.

        Source: Broder 1997, "On the resemblance and containment of documents".
        """
        for band in range(_BANDS):
            compared, shingles = -1, frozenset[str]()
            for firsts, others in self._bands.equal(band, groups.rows):
                # Of the texts that share a key, each is compared with the first only.
                for first, other in groups.apart(firsts, others):
                    if first != compared:
                        compared, shingles = first, _shingles(self._texts[first])
                    if _jaccard(shingles, _shingles(self._texts[other])) >= threshold:
                        groups.join(first, other)

    def _hash_waiting(self) -> None:
        if self._waiting:
            self._bands.append(_band_keys(self._waiting))
            self._hashes.append(np.array([_hash(text) for text in self._waiting], np.uint64)[:, None])
            self._waiting.clear()


def _end(position: int) -> bytes:
    return position.to_bytes(8, sys.byteorder, signed=True)


def _hash(text: str) -> int:
    content = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest())


def _band_keys(texts: Sequence[str]) -> Keys:
    """(texts, bands): hashes of the bands of each text's MinHash signature."""
    hashes, starts = _shingle_hashes(texts)
    generator = np.random.default_rng(0)
    flips, factors = generator.integers(0, 1 << 32, (2, _BANDS * _ROWS), dtype=np.uint32)
    signature = np.empty((len(texts), _BANDS * _ROWS), np.uint64)
    for place, (flip, factor) in enumerate(zip(flips, factors | np.uint32(1), strict=True)):
        signature[:, place] = np.minimum.reduceat((hashes ^ flip) * factor, starts)
    bands = signature.reshape(len(texts), _BANDS, _ROWS)
    keys = np.zeros((len(texts), _BANDS), np.uint64)
    for row in range(_ROWS):
        keys = (keys ^ bands[:, :, row]) * np.uint64(0x9E3779B97F4A7C15)
    return keys


def _shingle_hashes(texts: Sequence[str]) -> tuple[_Hashes, npt.NDArray[np.int64]]:
    """Hashes of the shingles of all texts, one text after the other, and where each text begins."""
    # A short text is one shingle, padded with zeros, which no normalised text holds.
    filled = [text.ljust(_SHINGLE_CHARS, "\0") for text in texts]
    points = np.frombuffer("".join(filled).encode("utf-32-le", "surrogatepass"), np.uint32)
    lengths = np.array([len(text) for text in filled])
    found = np.zeros(len(points) - _SHINGLE_CHARS + 1, np.uint32)
    for place in range(_SHINGLE_CHARS):
        found = (found ^ points[place : place + len(found)]) * np.uint32(0x01000193)
    found ^= found >> np.uint32(15)
    found *= np.uint32(0x2C1B3C6D)
    found ^= found >> np.uint32(12)
    ends = np.cumsum(lengths)
    inside = np.ones(len(points), np.bool_)
    for back in range(1, _SHINGLE_CHARS):
        inside[ends - back] = False  # a window that begins here reaches into the next text
    counts = lengths - _SHINGLE_CHARS + 1
    return found[inside[: len(found)]], np.cumsum(counts) - counts


def _shingles(text: str) -> frozenset[str]:
    return frozenset(text[start : start + _SHINGLE_CHARS] for start in range(max(1, len(text) - _SHINGLE_CHARS + 1)))


def _jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / len(one | other)
