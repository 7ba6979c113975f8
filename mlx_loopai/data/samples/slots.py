"""Words that take the right Korean particle when a template formats them."""

from __future__ import annotations

from mlx_loopai.text.hangul import josa


class Slot(str):
    """`"{hero:은/는}".format(hero=Slot("곰"))` -> `"곰은"`."""

    def __format__(self, particle: str) -> str:
        return josa(str(self), particle) if particle else str(self)
