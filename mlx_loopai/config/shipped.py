"""The recipes that come with the package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from mlx_loopai.config.reading import load_config

RECIPES = Path(__file__).parents[1] / "recipes"
# The guarded recipes for what does not learn from whole judged answers, by the objective.
_RECIPES = {"grpo": "guarded-prompts", "tlpo": "guarded-positions"}


def shipped_recipe(name: str) -> Path:
    """The file of a shipped recipe, such as `guarded`."""
    return RECIPES / f"{name}.yaml"


def shipped_values(name: str) -> dict[str, Any]:
    """The options of a shipped recipe, to which a caller adds data."""
    found: dict[str, Any] = yaml.safe_load(shipped_recipe(name).read_text(encoding="utf-8"))
    return found


def guarded_values(data: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`data` with the values of the guarded recipe for a run without its own: the one for ordinary rows, or where
    `overrides` set a preference.objective the one for what that learns from: judged answers, positions in answers, or
    prompts that the model answers itself.

    Raises: InputError as `load_config`.
    """
    rows = shipped_values("guarded") | data
    preference = load_config(None, overrides, rows).preference
    if not preference.is_on:
        return rows
    return shipped_values(_RECIPES.get(preference.objective, "guarded-pairs")) | data
