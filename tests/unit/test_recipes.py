"""Every shipped recipe is a valid configuration whose comments' commands exist."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mlx_loopai.config import load_config
from mlx_loopai.config.shipped import guarded_values, shipped_recipe, shipped_values
from mlx_loopai.data.samples import corpus

RECIPE_FOLDER = Path(__file__).parents[2] / "mlx_loopai" / "recipes"
RECIPES = sorted(RECIPE_FOLDER.glob("*.yaml"))


def test_there_are_recipes() -> None:
    assert RECIPES


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_is_valid_and_commented(path: Path) -> None:
    config = load_config(path)
    assert config.sources or path.stem.startswith("guarded")  # whose rows come from the command line
    assert path.read_text(encoding="utf-8").startswith("#")
    for source in config.sources.values():
        if source.path.startswith("samples/"):
            assert corpus.sample(source.path.removeprefix("samples/"))


def test_judged_answers_have_a_recipe_of_their_own() -> None:
    data = {"sources": {"taste": {"path": "pairs.jsonl"}}}
    rows, pairs = (
        load_config(None, overrides, guarded_values(data, overrides))
        for overrides in ((), ("preference.objective=dpo", "train.epochs=1"))
    )
    assert rows == load_config(None, (), shipped_values("guarded") | data)
    assert pairs == load_config(
        None, ("preference.objective=dpo", "train.epochs=1"), shipped_values("guarded-pairs") | data
    )
    assert pairs.validation_share > rows.validation_share


@pytest.mark.parametrize(("objective", "name"), [("tlpo", "guarded-positions"), ("grpo", "guarded-prompts")])
def test_positions_and_prompts_have_recipes_of_their_own(objective: str, name: str) -> None:
    data, overrides = {"sources": {"taste": {"path": "rows.jsonl"}}}, (f"preference.objective={objective}",)
    found = load_config(None, overrides, guarded_values(data, overrides))
    assert found == load_config(None, overrides, shipped_values(name) | data)
    assert found.forgetting.budget == yaml.safe_load(shipped_recipe(name).read_text("utf-8"))["forgetting"]["budget"]


def test_the_demo_arms_see_every_domain_row_equally_often() -> None:
    plain, guarded = (load_config(RECIPE_FOLDER / f"demo-{arm}.yaml") for arm in ("plain", "guarded"))
    for name in ("creative", "domain"):
        passes = sum(phase.mixture.get(name, 0) for phase in guarded.phases) * guarded.train.epochs
        assert passes == plain.train.epochs
        assert plain.sources[name] == guarded.sources[name]
    assert plain.lora == guarded.lora
    # Rehearsal comes on top of a step's rows, so that a step learns from as many of them in both arms.
    domain_rows = guarded.train.rows_per_step * (1 - guarded.replay.share)
    assert domain_rows == pytest.approx(plain.train.rows_per_step, rel=0.001)
