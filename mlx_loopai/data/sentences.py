"""Cuts a long text where it may be divided: after a line end or a finished sentence, nowhere else."""

from __future__ import annotations

import re

_CLOSERS = "\"'”’」』)\\]"
# A Western full stop ends a sentence only before a space (3.14 does not); a CJK one always does. Line ends stay
# with the text before them and spaces go to the text after, as byte-level tokenizers group them.
_UNIT = re.compile(
    rf".+?(?:(?:[.!?…]+[{_CLOSERS}]*(?=\s|\Z)|[。！？]+[{_CLOSERS}]*)(?:[^\S\n]*\n+)?|\n+|\Z)",
    re.DOTALL,
)
# A number of a list (`2.`) ends like a sentence, but holds no letter.
_SENTENCE = re.compile(rf".*[^\W\d_].*[.!?…。！？][{_CLOSERS}]*\s*", re.DOTALL)


def sentence_units(text: str) -> list[str]:
    """`text` in sentences and lines. Joined without a separator they are `text` again.

    `'하나. 둘!\\n셋'` -> `['하나.', ' 둘!\\n', '셋']`
    """
    return _UNIT.findall(text)


def whole_sentences(text: str) -> str:
    """`text` up to the end of its last whole sentence; "" where none ends.

    `'하나. 둘!\\n1. 셋'` -> `'하나. 둘!'`
    """
    units = sentence_units(text)
    while units and not _SENTENCE.fullmatch(units[-1]):
        units.pop()
    return "".join(units).strip()
