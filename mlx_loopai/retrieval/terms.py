"""The terms that BM25 counts in Korean text: pairs of neighbouring characters of each word.

Particles and endings are attached to Korean words, so that whole words miss most of their own forms (등대가, 등대를).
Character pairs find them without a dictionary.
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from mlx_loopai.text.hangul import nfc

Terms = npt.NDArray[np.int64]

_NOT_IN_WORDS = re.compile(r"[\W_]+")
_SPACE = ord(" ")
# A code point has at most 21 bits.
_SHIFT = 21


# First syllables of particles: a noun of one syllable forms pairs with them (책을, 책이).
_PARTICLE_STARTS = np.array([ord(char) for char in "은는이가을를의에과와도만로으까부처보뿐"], np.int64)
_SYLLABLES = (ord("가"), ord("힣"))


def with_particles(terms: Terms) -> Terms:
    """The terms, and for each single syllable among them its pairs with all first syllables of particles."""
    first, last = _SYLLABLES
    alone = terms[(first <= terms) & (terms <= last)]
    return np.concatenate([terms, ((alone[:, None] << _SHIFT) | _PARTICLE_STARTS).ravel()])


def has_pairs(terms: Terms) -> bool:
    """True when one of the terms' words has two characters or more."""
    return bool((terms >> _SHIFT).any())


def text_terms(text: str) -> Terms:
    """The terms of `text` in its order, repeats included: two code points in one number.

    NFC and case folded; letters and digits alone form words. A word of one character is a term of its own.
    """
    words = " " + _NOT_IN_WORDS.sub(" ", nfc(text).casefold()) + " "
    points = np.frombuffer(words.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.int64)
    inside = points != _SPACE
    begins_pair = inside[:-1] & inside[1:]
    alone = inside[1:-1] & ~inside[:-2] & ~inside[2:]
    pairs = (points[:-1] << _SHIFT) | points[1:]
    singles = points[1:-1]
    # A word of one character has no pair, so the character itself is the term.
    found = np.where(begins_pair, pairs, 0)
    found[1:] += np.where(alone, singles, 0)
    return found[found != 0]
