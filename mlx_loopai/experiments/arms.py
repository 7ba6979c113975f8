"""The arms of `mlx-loopai compare`: one recipe, trained without a guard and with each kind of guard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from mlx_loopai.config import PENALTIES, PenaltyOptions, ReplayOptions, RunConfig, load_config, validate_config
from mlx_loopai.config.shipped import shipped_recipe
from mlx_loopai.errors import InputError
from mlx_loopai.language import tr
from mlx_loopai.models.load import NANO
from mlx_loopai.runs.documents.comparison import PLAIN

# Recommended recipes: for the embedded model (True) with swept strengths, for any other with a forgetting budget.
RECOMMENDED = {True: shipped_recipe("demo-guarded"), False: shipped_recipe("guarded")}
MATCHED, SELF, RECIPE, GUARDED = "plain-matched", "self", "recipe", "guarded"

# The settings that an arm adds to training on the domain rows; the rest of `replay` and `penalty` is the recipe's.
ARMS: dict[str, dict[str, dict[str, Any]]] = {
    PLAIN: {},
    MATCHED: {},
    **{f"replay-{percent}": {"replay": {"source": "records", "share": percent / 100}} for percent in (1, 5, 10)},
    SELF: {"replay": {"source": "self"}},
    **{kind: {"penalty": {"kind": kind}} for kind in PENALTIES if kind != "none"},
    "held": {"penalty": {"held_energy": 0.25}},
    # Shows what hlora gains from training on general rows first, without its penalty.
    "stage-a": {"penalty": {"kind": "hlora", "strength": 0.0}},
}
_RECIPE_SUFFIXES = (".yaml", ".yml")
_GENERAL_CATEGORIES = ("dialogue", "knowledge")


def arm_names() -> list[str]:
    """The shipped arms, in the order of the table."""
    return [*ARMS, GUARDED, RECIPE]


def named_arms(recipe: RunConfig, names: Sequence[str], overrides: tuple[str, ...] = ()) -> dict[str, RunConfig]:
    """The configurations of the arms `names`, plain first: it defines the gain.

    A name may also be a recipe file, whose arm is called by the file's stem. overrides: NAME=VALUE texts that apply to
    such files, too. Raises: InputError as `arm_config` and `recipe_arm`.
    """
    found = {}
    for name in names:
        path = Path(name)
        if path.suffix in _RECIPE_SUFFIXES:
            found[path.stem] = recipe_arm(recipe, path, overrides)
        else:
            found[name] = arm_config(recipe, name)
    plain = found.pop(PLAIN, None) or arm_config(recipe, PLAIN)
    return {PLAIN: plain, **found}


def recipe_arm(recipe: RunConfig, path: Path, overrides: tuple[str, ...] = ()) -> RunConfig:
    """The arm that the recipe file `path` describes, to be compared with the arms of `recipe`.

    Raises: InputError when the file is not a recipe, or tunes another base.
    """
    arm = load_config(path, overrides)
    for name in ("model", "dtype", "system_prompt"):
        if getattr(arm, name) != getattr(recipe, name):
            raise InputError(
                tr(
                    "`arms` {path}: {name} is not the recipe's; arms of one comparison share their base",
                    path=path,
                    name=name,
                )
            )
    return arm


def arm_config(recipe: RunConfig, name: str) -> RunConfig:
    """The configuration of the arm `name` of `recipe`.

    `recipe`: the recipe as it is. `guarded`: with the guards of the recommended recipe. All others: the creative and
    domain rows of all phases in one phase, each row as often and as many in a step as in the recipe, with the settings
    of `ARMS`.

    Raises: InputError when there is no such arm, or when it needs general records that the recipe does not name.
    """
    if name == RECIPE:
        return recipe
    if name == GUARDED:
        recommended = load_config(RECOMMENDED[recipe.model == NANO])
        guards = {
            "replay": recommended.replay, "penalty": recommended.penalty, "forgetting": recommended.forgetting
        }  # fmt: skip
        return _as_many_domain_rows(recipe, recipe.model_copy(update=guards))
    if name not in ARMS:
        raise InputError(tr("`arms` {name}: no such arm; known: {known}", name=name, known=", ".join(arm_names())))
    values = yaml.safe_load(recipe.to_yaml()) | {"phases": _one_phase(recipe)}
    values["replay"] |= {"source": "none", "share": 0.0, "loss_share": 0.0, "objective": "answers"}
    values["penalty"] |= {"kind": "none", "held_energy": 0.0}
    values["forgetting"] |= {"budget": 0.0}  # an arm shows what its one guard does at the recipe's strength
    if name in (PLAIN, MATCHED):  # without a guard its options have no effect
        values |= {"replay": ReplayOptions().model_dump(), "penalty": PenaltyOptions().model_dump()}
    for section, changes in ARMS[name].items():
        values[section] |= changes
    if name == SELF:
        values["replay"]["share"] = load_config(RECOMMENDED[recipe.model == NANO]).replay.share
    arm = validate_config(values, f"arm {name}")
    needs_records = name.startswith("replay-") or arm.measures_importance
    if needs_records and not recipe.general:
        raise InputError(
            tr("`arms` {name}: needs general records; give `general: FILE` in the recipe or by `overrides`", name=name)
        )
    return _as_many_domain_rows(recipe, arm)


def _as_many_domain_rows(recipe: RunConfig, arm: RunConfig) -> RunConfig:
    """`arm` with as many training rows (not rehearsal) in a step as the recipe has, to the nearest row."""
    rows = recipe.train.rows_per_step * (1 - recipe.replay.share) / (1 - arm.replay.share)
    train = arm.train.model_copy(update={"rows_per_step": max(1, round(rows))})
    return arm.model_copy(update={"train": train})


def _one_phase(recipe: RunConfig) -> list[dict[str, Any]]:
    """One phase with the passes over each domain source that all phases have together."""
    domain = [name for name, source in recipe.sources.items() if source.category not in _GENERAL_CATEGORIES]
    mixtures = [phase.mixture for phase in recipe.phases] or [dict.fromkeys(recipe.sources, 1.0)]
    passes = {name: sum(mixture.get(name, 0.0) for mixture in mixtures) for name in domain or recipe.sources}
    return [{"name": "train", "mixture": {name: times for name, times in passes.items() if times > 0}}]
