"""The run configuration: what a recipe and `--set` may say, and how a mistake is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mlx_loopai.config import PENALTIES, RunConfig, flatten, load_config, option_table, validate_config
from mlx_loopai.errors import InputError


def _recipe(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_an_unknown_key_names_the_nearest(tmp_path: Path) -> None:
    recipe = _recipe(tmp_path, "train:\n  learning_rat: 1\n")
    with pytest.raises(
        InputError, match=r"recipe\.yaml: .*unknown key train\.learning_rat; did you mean learning_rate\?"
    ):
        load_config(recipe)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modle: nano", "unknown key modle; did you mean model?"),
        ("lora: {rnak: 4}", "unknown key lora.rnak; did you mean rank?"),
        ("sources: {a: {path: x, categroy: domain}}", "unknown key sources.a.categroy; did you mean category?"),
        ("phases: [{name: p, mixtrue: {}, mixture: {}}]", "unknown key phases.0.mixtrue; did you mean mixture?"),
        ("zzzzzz: 1", "unknown key zzzzzz; known: dtype, forgetting, "),
    ],
)
def test_unknown_keys_at_every_depth(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        load_config(_recipe(tmp_path, text))
    assert message in str(caught.value)


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    recipe = _recipe(tmp_path, "lora: {rank: 0, dropout: 2}\ntrain: {epochs: many, schedul: cosine}\n")
    with pytest.raises(InputError) as caught:
        load_config(recipe)
    message = str(caught.value)
    for part in ("lora.rank", "lora.dropout", "(got 2)", "train.epochs", "(got 'many')", "did you mean schedule?"):
        assert part in message
    assert "\n" not in message


@pytest.mark.parametrize("text", ["1e-5", "1E-5", "0.00001", "1.0e-5", "+1e-5"])
def test_numbers_with_exponents_are_numbers(tmp_path: Path, text: str) -> None:
    recipe = _recipe(tmp_path, f"train: {{learning_rate: {text}}}")
    assert load_config(recipe).train.learning_rate == 1e-5
    assert load_config(None, (f"train.learning_rate={text}",)).train.learning_rate == 1e-5


@pytest.mark.parametrize("text", ["1.2.3", "e5", "1e", "v1e-5"])
def test_what_only_looks_like_a_number_stays_text(text: str) -> None:
    assert load_config(None, (f"model={text}",)).model == text


def test_overrides_win_over_the_recipe_and_it_over_the_base(tmp_path: Path) -> None:
    recipe = _recipe(tmp_path, "model: from-recipe\ntrain: {seed: 1, epochs: 3}\n")
    config = load_config(
        recipe, ("train.seed=7", "lora.targets=[q_proj, v_proj]"), base={"model": "m", "dtype": "fp32"}
    )
    assert (config.model, config.dtype, config.train.seed, config.train.epochs) == ("from-recipe", "fp32", 7, 3)
    assert config.lora.targets == ("q_proj", "v_proj")


def test_overrides_from_python(tmp_path: Path) -> None:
    sources = {"mine": {"path": tmp_path / "rows.jsonl"}}
    config = load_config(overrides={"sources": sources, "sources.mine.category": "creative", "train.max_steps": 3})
    assert config.sources["mine"].path == str(tmp_path / "rows.jsonl")
    assert (config.sources["mine"].category, config.train.max_steps) == ("creative", 3)
    assert sources == {"mine": {"path": tmp_path / "rows.jsonl"}}  # what the caller holds stays as it was
    with pytest.raises(InputError, match=r"options: unknown key train.max_step; did you mean max_steps\?"):
        load_config(overrides={"train.max_step": 3})


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.seed", "expected NAME=VALUE"),
        ("model.a=1", "model is a value, not a table"),
        ("lora.targets=[", "cannot read the value '['"),
        ("train.sed=1", "did you mean seed?"),
    ],
)
def test_wrong_overrides(override: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        load_config(None, (override,), base={"model": "nano"})
    assert message in str(caught.value)


def test_data_paths_resolve_beside_the_recipe(tmp_path: Path) -> None:
    text = """
sources:
  near: {path: rows.jsonl}
  far: {path: /data/rows.jsonl}
  own: {path: samples/creative}
validation: ../held_out.jsonl
general: samples/general
"""
    config = load_config(_recipe(tmp_path, text))
    assert config.sources["near"].path == str(tmp_path.resolve() / "rows.jsonl")
    assert config.sources["far"].path == "/data/rows.jsonl"
    assert config.sources["own"].path == "samples/creative"
    assert config.validation == str(tmp_path.resolve().parent / "held_out.jsonl")
    assert config.general == "samples/general"


def test_phases_name_defined_sources_and_differ(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"phases name sources \['b'\] that `sources` does not define; defined: \['a'\]"
    ):
        validate_config({"sources": {"a": {"path": "x"}}, "phases": [{"name": "p", "mixture": {"a": 1, "b": 2}}]}, "r")
    with pytest.raises(InputError, match="phase names must differ"):
        validate_config({"phases": [{"name": "p", "mixture": {}}] * 2}, "r")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1", "not valid YAML"),
        (b"- a\n- b\n", "a recipe is a table of options, got list"),
        (b"", "a recipe is a table of options, got NoneType"),
        ("model: 한국".encode("cp949"), "not UTF-8"),
    ],
)
def test_unreadable_recipes(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_config(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_missing_recipe(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such recipe"):
        load_config(tmp_path / "none.yaml")


def test_the_digest_follows_every_value_and_nothing_else() -> None:
    config = RunConfig()
    assert config.digest() == RunConfig().digest() == load_config(None).digest()
    assert config.digest() != load_config(None, ("train.seed=1",)).digest()
    assert len(config.digest()) == 64


def test_what_a_run_stores_reads_back_the_same(tmp_path: Path) -> None:
    config = load_config(None, ("train.learning_rate=3e-5", "lora.targets=[q_proj]", "system_prompt=한국어로 쓰세요."))
    stored = _recipe(tmp_path, config.to_yaml())
    assert load_config(stored) == config
    assert yaml.safe_load(config.to_yaml())["system_prompt"] == "한국어로 쓰세요."


def test_every_option_is_described_and_can_be_set() -> None:
    table = option_table()
    assert all(description for _, _, description in table)
    assert {name for name, _, _ in table} == set(flatten(RunConfig()))


@pytest.mark.parametrize("kind", PENALTIES)
def test_penalties_on_the_update_refuse_dora(kind: str) -> None:
    given = ("lora.dora=true", f"penalty.kind={kind}")
    if kind in ("none", "kl"):  # the distance from the base needs no update to be measured
        assert load_config(None, given).penalty.kind == kind
    else:
        with pytest.raises(InputError, match=f"penalty.kind {kind} .*DoRA"):
            load_config(None, given)
