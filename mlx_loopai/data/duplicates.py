"""Finds texts that occur in a data set more than once, word for word or nearly so."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from mlx_loopai.text.hangul import nfc

NEAR = 0.8
_SHINGLE_CHARS = 5
_BANDS, _ROWS = 20, 5  # finds 99.9 % of pairs at a similarity of 0.8, and few below 0.5
_PRIME = np.uint64((1 << 61) - 1)

_Hashes = npt.NDArray[np.uint64]


def normalised(text: str) -> str:
    """NFC, case folded, letters and digits only: what makes two rows the same row."""
    return "".join(char for char in nfc(text).casefold() if char.isalnum())


def exact_groups(texts: Sequence[str]) -> list[list[int]]:
    """Indices of texts that are equal after `normalised`, one list for every text that occurs more than once."""
    found: dict[str, list[int]] = defaultdict(list)
    for index, text in enumerate(texts):
        found[normalised(text)].append(index)
    return [group for group in found.values() if len(group) > 1]


def near_groups(texts: Sequence[str], threshold: float = NEAR) -> list[list[int]]:
    """Indices of texts that are equal or nearly so: groups connected by pairs at least `threshold` alike.

    Alike is the Jaccard similarity of the sets of 5-character shingles of the normalised texts, computed exactly for
    the pairs that MinHash proposes. A text shorter than a shingle is one shingle.

    Source: Broder 1997, "On the resemblance and containment of documents".
    """
    shingles = [_shingles(normalised(text)) for text in texts]
    parent = list(range(len(texts)))
    for first, second in _candidates(shingles):
        one, other = _root(parent, first), _root(parent, second)
        if one != other and _jaccard(shingles[first], shingles[second]) >= threshold:
            parent[max(one, other)] = min(one, other)
    groups: dict[int, list[int]] = defaultdict(list)
    for index in range(len(texts)):
        groups[_root(parent, index)].append(index)
    return [group for group in groups.values() if len(group) > 1]


def _shingles(text: str) -> frozenset[str]:
    return frozenset(text[start : start + _SHINGLE_CHARS] for start in range(max(1, len(text) - _SHINGLE_CHARS + 1)))


def _jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / len(one | other)


def _candidates(shingles: Sequence[frozenset[str]]) -> Iterable[tuple[int, int]]:
    """Pairs that share a band of their MinHash signatures; each text is paired with the band's first only."""
    generator = np.random.default_rng(0)
    factors, offsets = generator.integers(1, int(_PRIME), (2, _BANDS * _ROWS), dtype=np.uint64)
    buckets: dict[tuple[int, bytes], int] = {}
    for index, found in enumerate(shingles):
        signature = _signature(found, factors, offsets)
        for band in range(_BANDS):
            key = (band, signature[band * _ROWS : (band + 1) * _ROWS].tobytes())
            first = buckets.setdefault(key, index)
            if first != index:
                yield first, index


def _signature(shingles: frozenset[str], factors: _Hashes, offsets: _Hashes) -> _Hashes:
    # The products wrap around modulo 2^64, for every text alike: still a hash.
    hashes = np.array([_hash(shingle) for shingle in shingles], np.uint64)
    with np.errstate(over="ignore"):
        return ((hashes[:, None] * factors + offsets) % _PRIME).min(axis=0)


def _hash(shingle: str) -> int:
    return int.from_bytes(hashlib.blake2b(shingle.encode("utf-8", "replace"), digest_size=8).digest()) >> 3


def _root(parent: list[int], index: int) -> int:
    while parent[index] != index:
        parent[index] = parent[parent[index]]
        index = parent[index]
    return index
