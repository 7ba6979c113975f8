"""The table of arms: each guards as its name says, and all see every domain row equally often."""

from __future__ import annotations

import pytest

from mlx_loopai.config import RunConfig, load_config
from mlx_loopai.config.shipped import RECIPES
from mlx_loopai.errors import InputError
from mlx_loopai.experiments.arms import ARMS, RECOMMENDED, arm_config, arm_names, recipe_arm


@pytest.fixture(scope="module")
def guarded() -> RunConfig:
    return load_config(RECOMMENDED[True])


def test_plain_of_the_guarded_recipe_is_the_demonstrations_plain(guarded: RunConfig) -> None:
    plain, shipped = arm_config(guarded, "plain"), load_config(RECIPES / "demo-plain.yaml")
    (phase,) = plain.phases
    assert phase.mixture == dict.fromkeys(shipped.sources, shipped.train.epochs)
    assert (plain.replay, plain.penalty, plain.lora) == (shipped.replay, shipped.penalty, shipped.lora)
    assert plain.train.rows_per_step == shipped.train.rows_per_step


def test_every_arm_but_the_recipes_has_the_same_domain_rows(guarded: RunConfig) -> None:
    plain = arm_config(guarded, "plain").phases
    assert all(arm_config(guarded, name).phases == plain for name in ARMS)


@pytest.mark.parametrize("name", arm_names())
def test_an_arm_guards_as_its_name_says(guarded: RunConfig, name: str) -> None:
    arm = arm_config(guarded, name)
    if name in ("guarded", "recipe"):
        assert arm == guarded
        return
    changes = ARMS[name]
    assert arm.penalty.held_energy == changes.get("penalty", {}).get("held_energy", 0.0)
    share = guarded.replay.share if name == "self" else changes.get("replay", {}).get("share", 0.0)
    assert arm.penalty.kind == changes.get("penalty", {}).get("kind", "none")
    assert (arm.replay.source, arm.replay.share) == (
        changes.get("replay", {}).get("source", "none"),
        share,
    )
    alike = {"rows_per_step": guarded.train.rows_per_step}
    assert arm.train.model_copy(update=alike) == guarded.train
    own = guarded.train.rows_per_step * (1 - guarded.replay.share)
    assert arm.train.rows_per_step * (1 - arm.replay.share) == pytest.approx(own, rel=0.15)


def test_the_guarded_arm_takes_replay_and_penalty_alone() -> None:
    recipe = load_config(RECIPES / "korean-creative.yaml")
    arm, recommended = arm_config(recipe, "guarded"), load_config(RECOMMENDED[False])
    assert (arm.replay, arm.penalty) == (recommended.replay, recommended.penalty)
    assert (arm.phases, arm.sources, arm.model) == (recipe.phases, recipe.sources, recipe.model)


def test_what_cannot_be_is_said() -> None:
    recipe = load_config(RECIPES / "korean-creative.yaml")
    with pytest.raises(InputError, match="no such arm; known: plain"):
        arm_config(recipe, "magic")
    for name in ("replay-5", "sketch"):
        with pytest.raises(InputError, match="needs general records"):
            arm_config(recipe, name)


def test_a_recipe_file_is_an_arm_when_it_tunes_the_same_base(guarded: RunConfig) -> None:
    plain = recipe_arm(guarded, RECIPES / "demo-plain.yaml", ("train.seed=3",))
    assert plain == load_config(RECIPES / "demo-plain.yaml", ("train.seed=3",))
    with pytest.raises(InputError, match=r"korean-creative.yaml: model is not the recipe's"):
        recipe_arm(guarded, RECIPES / "korean-creative.yaml")


def test_the_first_stage_alone_is_the_released_method_without_its_penalty(guarded: RunConfig) -> None:
    alone, released = arm_config(guarded, "stage-a"), arm_config(guarded, "hlora")
    assert alone.penalty.strength == 0
    assert alone.model_copy(update={"penalty": released.penalty}) == released
