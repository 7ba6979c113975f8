"""The recipes that come with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

RECIPES = Path(__file__).parents[1] / "recipes"


def shipped_recipe(name: str) -> Path:
    """The file of a shipped recipe, such as `guarded`."""
    return RECIPES / f"{name}.yaml"


def shipped_values(name: str) -> dict[str, Any]:
    """Its options as they stand there, to which a caller adds data."""
    found: dict[str, Any] = yaml.safe_load(shipped_recipe(name).read_text(encoding="utf-8"))
    return found
