"""The characters that a `scripts` policy allows, and where it allows them.

A policy becomes two small tables: the class of every code point, and the transitions between contexts by class.
Contexts are the only memory of a policy: "after Hangul", and "in a gloss, k characters so far".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import regex

from mlx_loopai.errors import InputError
from mlx_loopai.language import tr
from mlx_loopai.text.scripts import EMOJI

MAX_GLOSS_CHARS = 8
PARTS = ("ko", "latin", "loanwords", "gloss", "han", "emoji")
N_CODE_POINTS = 0x110000
FORBIDDEN = -1

# Scripts are looked up in these planes only: what lies above is historic, or ideographs (_HAN_PLANES).
_SEARCHED = (range(0x20, 0xD800), range(0xE000, 0xFFFC), range(0x1F000, 0x1FB00))
_HAN_PLANES = range(0x20000, 0x323B0)
# Signs of Korean prose, as whole stretches of blocks: few stretches make a small automaton.
_SIGNS = (
    r"\t\n\r\x20-\x40\x5b-\x60\x7b-\x7e\u00a0-\u00a9\u00ab-\u00b4\u00b6-\u00b9\u00bb-\u00bf\u00d7\u00f7"
    r"\u2010-\u2027\u2030-\u205e\u20a0-\u20bf\u2103\u2109\u2113\u2116\u2122\u2160-\u217f\u2190-\u22ff\u2460-\u24ff"
    r"\u2500-\u25ff\u2600-\u2606\u260e\u260f\u2611\u261c-\u261f\u2640-\u2642\u2660-\u266f\u2713-\u2718\u273d"
    r"\u3000-\u3004\u3008-\u3020\u3030\u321d\u321e\u3380-\u33df\uff01-\uff20\uff3b-\uff40\uff5b-\uff5e\uffe0-\uffe6"
)
_PATTERNS = {
    # Roman numerals and fullwidth letters are Latin by script; a lone sign such as ℓ or ㎏ is a unit.
    "ko": rf"[[{_SIGNS}]--[\p{{Latin}}\p{{Han}}]]",
    "hangul": r"\p{Hangul}",
    "latin": r"[\p{Latin}\u0300-\u036f]",
    "han": r"\p{Han}",
    "opening": r"[(（\[〔]",
    "separator": r"[ ·,、]",
    # What joins and colours emoji: joiner, selectors, keycap, skin tones, flags.
    "emoji": r"[\u200d\ufe0e\ufe0f\u20e3\p{EMod}\p{Regional_Indicator}]",
}


class CharClass(IntEnum):
    """The classes of characters that decide the next context."""

    FORBIDDEN = 0
    OTHER = 1
    HANGUL = 2
    OPENING = 3
    SEPARATOR = 4
    HAN = 5


@dataclass(frozen=True)
class Scripts:
    """A parsed `scripts` policy; `parts` is empty for `off`."""

    parts: frozenset[str]

    @classmethod
    def parse(cls, text: str) -> Scripts:
        """The policy written as `off`, or as a sum such as `ko+latin`. Raises: InputError naming an unknown part."""
        if text.strip() == "off":
            return cls(frozenset())
        parts = [part.strip() for part in text.split("+")]
        unknown = [part or "(nothing)" for part in parts if part not in PARTS]
        if unknown:
            raise InputError(
                tr(
                    "`scripts` {text}: unknown part {unknown}; give off, or a sum of {known}, such as ko+latin",
                    text=text,
                    unknown=", ".join(unknown),
                    known=", ".join(PARTS),
                ),
                "scripts",
            )
        if "ko" not in parts:
            raise InputError(
                tr(
                    "`scripts` {text}: ko is missing, and with it digits and punctuation; add it, or give off",
                    text=text,
                ),
                "scripts",
            )
        return cls(frozenset(parts))

    @property
    def is_off(self) -> bool:
        return not self.parts

    @property
    def has_gloss(self) -> bool:
        """True when Hanja depends on the context: `han` allows it everywhere."""
        return "gloss" in self.parts and "han" not in self.parts

    def __str__(self) -> str:
        return "+".join(part for part in PARTS if part in self.parts) or "off"


def char_classes(scripts: Scripts) -> npt.NDArray[np.int8]:
    """The CharClass of each code point (0x110000). Surrogates, controls and unassigned ones are FORBIDDEN."""
    classes = np.zeros(N_CODE_POINTS, dtype=np.int8)
    classes[_members("ko")] = CharClass.OTHER
    if "emoji" in scripts.parts:
        classes[_members("pictographs")] = CharClass.OTHER
        classes[_members("emoji")] = CharClass.OTHER
    if scripts.parts & {"latin", "loanwords"}:
        classes[_members("latin")] = CharClass.OTHER
    classes[_members("hangul")] = CharClass.HANGUL
    if scripts.has_gloss:
        classes[_members("separator")] = CharClass.SEPARATOR
        classes[_members("opening")] = CharClass.OPENING
    if scripts.parts & {"han", "gloss"}:
        classes[_members("han")] = CharClass.HAN if scripts.has_gloss else CharClass.OTHER
    return classes


def context_moves(scripts: Scripts) -> npt.NDArray[np.int16]:
    """The context after a character: (contexts, classes), FORBIDDEN where it may not stand. Context 0 is the start.

    With glosses: 0 elsewhere, 1 after Hangul, 2 + k inside a bracket that followed Hangul, k characters in.
    """
    n_contexts = 3 + MAX_GLOSS_CHARS if scripts.has_gloss else 1
    moves = np.zeros((n_contexts, len(CharClass)), dtype=np.int16)
    moves[:, CharClass.FORBIDDEN] = FORBIDDEN
    if not scripts.has_gloss:
        return moves
    moves[:, CharClass.HANGUL] = 1
    moves[1, CharClass.OPENING] = 2
    moves[:, CharClass.HAN] = FORBIDDEN
    inside = np.arange(2, n_contexts - 1)
    moves[inside, CharClass.HAN] = inside + 1
    moves[inside[1:], CharClass.SEPARATOR] = inside[1:] + 1
    return moves


@lru_cache(maxsize=1)
def _searched() -> tuple[str, npt.NDArray[np.int32]]:
    """Every searched character in one string, and the code point of each place in it."""
    codes = np.concatenate([np.arange(block.start, block.stop, dtype=np.int32) for block in _SEARCHED])
    codes = np.concatenate([np.array([0x9, 0xA, 0xD], dtype=np.int32), codes])
    return codes.astype("<u4").tobytes().decode("utf-32-le"), codes


@lru_cache(maxsize=len(_PATTERNS) + 1)
def _members(name: str) -> npt.NDArray[np.int32]:
    """The code points of a named set."""
    text, codes = _searched()
    pattern = EMOJI if name == "pictographs" else regex.compile(_PATTERNS[name], regex.V1)
    found = codes[np.fromiter((match.start() for match in pattern.finditer(text)), dtype=np.int64)]
    return np.concatenate([found, np.arange(_HAN_PLANES.start, _HAN_PLANES.stop)]) if name == "han" else found
