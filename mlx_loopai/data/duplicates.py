"""Finds texts that occur in a data set more than once, word for word or nearly so.

Texts and their hashes lie in unnamed files while they are compared. Only four bytes per text stay in memory, and the
groups that are found.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import IO

import numpy as np
import numpy.typing as npt

from mlx_loopai.files import cache_folder
from mlx_loopai.text.hangul import nfc

NEAR = 0.8
_SHINGLE_CHARS = 5
_BANDS, _ROWS = 20, 5  # finds 99.9 % of pairs at a similarity of 0.8, and few below 0.5
# Texts that are hashed together, so that numpy's calls cost little.
_TEXTS_AT_ONCE = 64
# Keys that are written and read at once; keys that are sorted at once, unless 1/_PARTS of all is more.
_KEYS_AT_ONCE, _SORTED_AT_ONCE, _PARTS = 4096, 1 << 16, 16

_MARKS = re.compile(r"[\W_]+")
_Keys = npt.NDArray[np.uint64]
_Hashes = npt.NDArray[np.uint32]


def normalised(text: str) -> str:
    """`text` in NFC, case folded, letters and digits only; two rows with equal results count as the same."""
    return _MARKS.sub("", nfc(text).casefold())


def exact_groups(texts: Iterable[str]) -> list[list[int]]:
    """Indices of texts that are equal after `normalised`, one list for every text that occurs more than once."""
    with TextIndex() as index:
        for text in texts:
            index.add(text)
        return index.exact_groups()


def near_groups(texts: Iterable[str], threshold: float = NEAR) -> list[list[int]]:
    """Indices of texts that are equal or nearly so, as `TextIndex.near_groups`."""
    with TextIndex() as index:
        for text in texts:
            index.add(text)
        return index.near_groups(threshold)


class Spool:
    """Texts in an unnamed file, read back by index; none stays in memory."""

    def __init__(self) -> None:
        self._texts, self._ends = _nameless_file(), _nameless_file()
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


class _KeyColumns:
    """Keys of texts in an unnamed file, by column; each text has one key in each column."""

    def __init__(self, columns: int) -> None:
        self._file, self._columns = _nameless_file(), columns
        self._waiting: list[_Keys] = []
        self._blocks: list[int] = []

    def append(self, keys: _Keys) -> None:
        """Take in the keys [texts, columns] of more texts."""
        self._waiting.append(keys)
        if sum(map(len, self._waiting)) >= _KEYS_AT_ONCE:
            self._write()

    def _write(self) -> None:
        if self._waiting:
            block = np.concatenate(self._waiting)
            self._file.write(np.ascontiguousarray(block.T).tobytes())
            self._blocks.append(len(block))
            self._waiting.clear()

    def _read(self, column: int) -> Iterator[_Keys]:
        self._write()
        self._file.flush()
        start = 0
        for size in self._blocks:
            yield np.frombuffer(os.pread(self._file.fileno(), 8 * size, start + 8 * size * column), np.uint64)
            start += 8 * size * self._columns

    def equal(self, column: int, texts: int) -> Iterator[tuple[int, int]]:
        """Pairs (first, other) of texts with equal keys: the first text that has a key with every other one.

        texts: how many texts are looked at, from the first on. Keys are sorted part by part; within a part, `first`
        and then `other` ascend.
        """
        parts = max(1, min(_PARTS, texts // _SORTED_AT_ONCE))
        for part in range(parts):
            places, found = [np.zeros(0, np.int64)], [np.zeros(0, np.uint64)]
            start = 0
            for keys in self._read(column):
                chosen = np.flatnonzero(keys[: max(0, texts - start)] % np.uint64(parts) == part)
                places.append(chosen + start)
                found.append(keys[chosen])
                start += len(keys)
            yield from _equal(np.concatenate(found), np.concatenate(places))

    def close(self) -> None:
        """Give the file back."""
        self._file.close()


class TextIndex:
    """Collects texts and finds those that are alike. Use it as a context manager."""

    def __init__(self) -> None:
        self._texts = Spool()
        self._bands, self._hashes = _KeyColumns(_BANDS), _KeyColumns(1)
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

    def add(self, text: str) -> None:
        """Take a text in; its index is how many came before it."""
        plain = normalised(text)
        self._texts.append(plain)
        self._size += 1
        self._waiting.append(plain)
        if len(self._waiting) == _TEXTS_AT_ONCE:
            self._hash_waiting()

    def exact_groups(self, first_texts: int | None = None) -> list[list[int]]:
        """Indices of texts that are equal after `normalised`, one list for every text that occurs more than once.

        first_texts: how many texts are looked at, from the first on; all by default.
        """
        self._hash_waiting()
        groups: dict[int, list[int]] = {}
        for first, other in self._hashes.equal(0, len(self) if first_texts is None else first_texts):
            if self._texts[first] == self._texts[other]:
                groups.setdefault(first, [first]).append(other)
        return [groups[first] for first in sorted(groups)]

    def near_groups(self, threshold: float = NEAR, first_texts: int | None = None) -> list[list[int]]:
        """Indices of texts that are equal or nearly so: groups connected by pairs at least `threshold` alike.

        Alike is the Jaccard similarity of the sets of 5-character shingles of the normalised texts, computed exactly
        for the pairs that MinHash proposes. A text shorter than a shingle is one shingle. first_texts: as above.

        Source: Broder 1997, "On the resemblance and containment of documents".
        """
        parent = np.arange(len(self) if first_texts is None else first_texts, dtype=np.int32)
        for group in self.exact_groups(first_texts):
            parent[group] = group[0]
        for band in range(_BANDS):
            self._join(parent, band, threshold)
        groups: dict[int, list[int]] = {}
        for start in range(0, len(parent), _KEYS_AT_ONCE):
            some = parent[start : start + _KEYS_AT_ONCE]
            for index in (np.flatnonzero(some != np.arange(start, start + len(some))) + start).tolist():
                root = _root(parent, index)
                groups.setdefault(root, [root]).append(index)
        return [groups[root] for root in sorted(groups)]

    def _join(self, parent: npt.NDArray[np.int32], band: int, threshold: float) -> None:
        """Join texts that share a key of a band; each is compared with the first of them only."""
        compared, shingles = -1, frozenset[str]()
        for first, other in self._bands.equal(band, len(parent)):
            one, another = _root(parent, first), _root(parent, other)
            if one == another:
                continue
            if first != compared:
                compared, shingles = first, _shingles(self._texts[first])
            if _jaccard(shingles, _shingles(self._texts[other])) >= threshold:
                parent[max(one, another)] = min(one, another)

    def _hash_waiting(self) -> None:
        if self._waiting:
            self._bands.append(_band_keys(self._waiting))
            self._hashes.append(np.array([_hash(text) for text in self._waiting], np.uint64)[:, None])
            self._waiting.clear()


def _nameless_file() -> IO[bytes]:
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryFile(dir=folder)  # its owner closes it


def _end(position: int) -> bytes:
    return position.to_bytes(8, sys.byteorder, signed=True)


def _hash(text: str) -> int:
    content = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest())


def _equal(keys: _Keys, places: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Pairs (first, other) of `places` with equal keys; `places` ascend, and `keys` are theirs."""
    order = np.argsort(keys, kind="stable")
    sorted_keys = keys[order]
    begins = np.flatnonzero(np.concatenate([[True], sorted_keys[1:] != sorted_keys[:-1]])) if len(keys) else order
    sizes = np.diff(np.append(begins, len(keys)))
    for begin, size in zip(begins[sizes > 1].tolist(), sizes[sizes > 1].tolist(), strict=True):
        first = int(places[order[begin]])
        for at in range(begin + 1, begin + size):
            yield first, int(places[order[at]])


def _band_keys(texts: Sequence[str]) -> _Keys:
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


def _root(parent: npt.NDArray[np.int32], index: int) -> int:
    while parent[index] != index:
        parent[index] = parent[parent[index]]
        index = int(parent[index])
    return index
