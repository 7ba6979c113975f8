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


def sentence_units(text: str) -> list[str]:
    """`text` in sentences and lines. Joined without a separator they are `text` again.

    `'하나. 둘!\\n셋'` -> `['하나.', ' 둘!\\n', '셋']`
    """
    return _UNIT.findall(text)
