"""Tensor names of checkpoints that read pictures: which are the text model's, and which the vision tower's.

Three layouts are in use: transformers before version 5 (`visual.`, `model.`), since then (`model.visual.`,
`model.language_model.`), and MLX's (`vision_tower.`, `language_model.`).
"""

from __future__ import annotations

import re

_TOWER = re.compile(r"^(?:model\.)?(?:visual|vision_tower)\.")
_INNER = re.compile(r"^(?:model\.language_model|language_model\.model)\.")
_OUTER = re.compile(r"^language_model\.")


def tower_name(name: str) -> str | None:
    """The name within the tower, as transformers has it; None for a tensor of the text model."""
    found = _TOWER.match(name)
    return name[found.end() :] if found else None


def text_name(name: str) -> str:
    """The name in the text model alone; give no tensor of the tower."""
    return _OUTER.sub("", _INNER.sub("model.", name))
