"""`train.method: full`: whole models learn on both paths, resume bit for bit, keep their budget, and open everywhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import yaml
from mlx.utils import tree_flatten

from mlx_loopai.config import LoraOptions, RunConfig, TrainOptions, TrainPath, load_config, validate_config
from mlx_loopai.errors import InputError, Interrupted, LoopaiError
from mlx_loopai.experiments.rescaling import Rescaling, rescaled
from mlx_loopai.generation.session import open_session
from mlx_loopai.models.adapters import find_adapter
from mlx_loopai.models.full import apply_full, full_modules
from mlx_loopai.models.learnt import find_learnt, put_learnt
from mlx_loopai.models.load import load_model
from mlx_loopai.models.lora import adapter_disabled
from mlx_loopai.models.whole_model import UPDATE_FILE, check_can_be_saved, load_whole_update, save_whole_model
from mlx_loopai.runs.base_of_adapter import base_of
from mlx_loopai.runs.context import RunContext
from mlx_loopai.runs.directory import RunDirectory
from mlx_loopai.training.optimizer import build_optimizer
from mlx_loopai.training.run import train, train_in
from mlx_loopai.training.step import StepSettings, TrainStep
from tests.unit.conftest import Heard, batch, row
from tests.unit.training.test_run import stop_after

IDS = mx.array([[5, 9, 2, 30, 7, 11]])
WEIGHTS = "model.safetensors"
RATE = {"train__learning_rate": 1e-3, "train__method": "full"}


def arrays(folder: Path) -> dict[str, mx.array]:
    return dict(mx.load(str(folder / WEIGHTS)))


@pytest.mark.parametrize("moments", ["fp32", "8-bit"])
def test_a_run_writes_the_model_that_it_trained(
    configure: Callable[..., RunConfig],
    tiny_model_folder: Path,
    tmp_path: Path,
    heard: Heard,
    moments: str,
    path: TrainPath,
) -> None:
    config = configure(**RATE, train__moments=moments, train__path=path)
    context = RunContext.open(config, RunDirectory(tmp_path / "run"), heard)
    summary = train_in(context).summary
    assert summary.loss_last < summary.loss_first
    assert summary.model == str(tmp_path / "run" / "model")
    assert not (tmp_path / "run" / "adapter").exists()
    written = load_model(summary.model, "fp32")
    assert np.array_equal(np.array(written.model(IDS)), np.array(context.loaded.model(IDS)))
    before, after = arrays(tiny_model_folder), arrays(Path(summary.model))
    assert before.keys() == after.keys()
    same = {
        name for name in before if np.array_equal(*(np.array(one[name].astype(mx.float32)) for one in (before, after)))
    }
    learnt = {f"{name}.weight" for name in full_modules(context.loaded.model)}
    assert before.keys() - same == learnt
    assert all(after[name].dtype == before[name].dtype for name in same)


def test_a_resumed_run_is_the_same_to_the_bit(
    configure: Callable[..., RunConfig], tmp_path: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(**RATE, train__moments="8-bit", train__epochs=3, train__save_every=2)
    train(config, tmp_path / "whole", heard)
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        with pytest.raises(Interrupted):
            train(config, tmp_path / "broken", heard)
    summary = train(config, tmp_path / "broken", heard, resume=True)
    assert summary.resumed_from is not None
    assert (tmp_path / "broken/model" / WEIGHTS).read_bytes() == (tmp_path / "whole/model" / WEIGHTS).read_bytes()


def full(recipe: str, **values: Any) -> RunConfig:
    given = yaml.safe_load(recipe)
    given["train"] |= {"method": "full", "learning_rate": 1e-3, "max_steps": 5}
    given["phases"][1].pop("learning_rate")
    return validate_config(given | {"lora": {}} | values, "recipe")


@pytest.mark.parametrize("kind", ["kronecker", "sketch", "fisher", "kl"])
def test_guards_hold_a_whole_model_inside_its_budget(recipe: str, tmp_path: Path, heard: Heard, kind: str) -> None:
    config = full(recipe, penalty={"kind": kind}, forgetting={"budget": 1e-5})
    context = RunContext.open(config, RunDirectory(tmp_path / "run"), heard)
    summary = train_in(context).summary
    assert summary.budget_spent is not None
    assert summary.budget_spent <= 1e-5
    assert summary.update_scale < 1
    # The model that is written is the one that was scaled back.
    written = load_model(summary.model or "", "fp32").model
    np.testing.assert_array_equal(np.array(written(IDS)), np.array(context.loaded.model(IDS)))


@pytest.mark.parametrize("name", ["adamw", "sgd", "lion", "adafactor", "muon"])
def test_an_update_in_turn_is_the_update_of_all_at_once(tiny_model_folder: Path, name: str, path: TrainPath) -> None:
    batches = [batch([row(12, prompt=4), row(14, prompt=5, seed=1)]), batch([row(9, prompt=2, seed=2)])]
    ends = []
    for in_turn in (False, True):
        model = load_model(str(tiny_model_folder), "fp32").model
        apply_full(model, LoraOptions())
        optimizer = build_optimizer(
            TrainOptions.model_validate({"optimizer": name, "weight_decay": 0.0 if name == "adam" else 0.1})
        )
        step = TrainStep(model, optimizer, StepSettings(clip=0.5, path=path, in_turn=in_turn))

        def pulled(model: nn.Module) -> mx.array:
            return sum(mx.square(layer.delta - 0.01).sum() for layer in full_modules(model).values())

        results = [step(batches, rate, pulled, 0.3) for rate in (1e-2, 5e-3)]
        ends.append((results, dict(tree_flatten(model.trainable_parameters())), dict(tree_flatten(optimizer.state))))
    (results, deltas, state), (also, same, kept) = ends
    for one, other in zip(results, also, strict=True):
        assert other.loss == pytest.approx(one.loss, rel=1e-5)
        assert other.gradient_norm == pytest.approx(one.gradient_norm, rel=1e-5)
    assert state.keys() == kept.keys()
    for key, array in deltas.items():
        np.testing.assert_allclose(np.array(same[key]), np.array(array), atol=1e-5)


def test_a_step_that_is_not_finite_changes_nothing(tiny_model_folder: Path, path: TrainPath) -> None:
    model = load_model(str(tiny_model_folder), "fp32").model
    layers = apply_full(model, LoraOptions())
    first = next(iter(layers.values()))
    first.delta = mx.full(first.delta.shape, float("nan"))
    optimizer = build_optimizer(TrainOptions())
    step = TrainStep(model, optimizer, StepSettings(clip=1.0, path=path, in_turn=True))
    last = layers[list(layers)[-1]]
    assert step([batch([row(9)])], 1e-2).skipped
    assert not np.array(last.delta).any()
    assert optimizer.state["step"].item() == 0


def test_in_half_precision_the_model_that_is_written_is_the_model_that_was_trained(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    loaded = load_model(str(tiny_model_folder), "bf16")
    for layer in apply_full(loaded.model, LoraOptions()).values():
        layer.delta = 1e-3 * mx.random.normal(layer.delta.shape)
    save_whole_model(tmp_path / "model", tiny_model_folder, loaded.model, LoraOptions(), {"base": "tiny"})
    written = load_model(str(tmp_path / "model"), "bf16").model
    assert np.array_equal(*(np.array(model(IDS).astype(mx.float32)) for model in (written, loaded.model)))
    assert json.loads((tmp_path / "model" / "config.json").read_text()).get("torch_dtype", "bfloat16") == "bfloat16"
    assert "tiny" in (tmp_path / "model" / "README.md").read_text()


def test_what_was_learnt_can_be_put_on_the_base_again_and_scaled(tiny_model_folder: Path, tmp_path: Path) -> None:
    loaded = load_model(str(tiny_model_folder), "fp32")
    base = np.array(loaded.model(IDS))
    for layer in apply_full(loaded.model, LoraOptions(layers=1)).values():
        layer.delta = 0.05 * mx.random.normal(layer.delta.shape)
    save_whole_model(tmp_path / "model", tiny_model_folder, loaded.model, LoraOptions(layers=1), {})
    model = load_model(str(tiny_model_folder), "fp32").model
    load_whole_update(model, tmp_path / "model", LoraOptions(layers=1))
    whole = np.array(loaded.model(IDS))
    np.testing.assert_allclose(np.array(model(IDS)), whole, atol=1e-5)
    with rescaled(model, Rescaling(0.0, 0.0)):
        assert np.array_equal(np.array(model(IDS)), base)
    np.testing.assert_allclose(np.array(model(IDS)), whole, atol=1e-5)
    with adapter_disabled(model):
        assert np.array_equal(np.array(model(IDS)), base)


def test_a_folder_that_could_not_be_written_like_the_base_is_refused_before_training(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    stored = arrays(tiny_model_folder)
    stored["model.layers.0.self_attn.q_proj.weight"] = stored["model.layers.0.self_attn.q_proj.weight"] + 1
    mx.save_safetensors(str(other / WEIGHTS), stored)
    model = load_model(str(tiny_model_folder), "fp32").model
    with pytest.raises(InputError, match=r"0\.self_attn\.q_proj"):
        check_can_be_saved(other, apply_full(model, LoraOptions()))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"lora.dora": True}, "lora.dora"),
        ({"lora.dropout": 0.1}, "lora.dropout"),
        ({"lora.b_rate": 4.0}, "lora.b_rate"),
        ({"penalty.kind": "hierarchical"}, "penalty.kind hierarchical"),
        ({"penalty.kind": "hlora"}, "penalty.kind hlora"),
        ({"vision.trains": "projector"}, "vision"),
    ],
)
def test_what_has_no_meaning_for_whole_models_is_refused_by_name(options: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        load_config(None, {"train.method": "full"} | options)


def test_the_folder_of_a_run_is_enough_to_answer_with_and_without_what_it_learnt(
    configure: Callable[..., RunConfig], tiny_model_folder: Path, tmp_path: Path, heard: Heard
) -> None:
    run = tmp_path / "run"
    train(configure(**RATE, system_prompt="이야기꾼"), run, heard)
    assert base_of(run) == str(tiny_model_folder)
    session = open_session(base_of(run), run)
    assert session.adapter == run / "model"
    assert session.system_prompt == "이야기꾼"
    tuned, base = (load_model(str(folder), "fp32").model for folder in (run / "model", tiny_model_folder))
    assert np.array_equal(np.array(session.loaded.model(IDS)), np.array(tuned(IDS)))
    with adapter_disabled(session.loaded.model):
        assert np.array_equal(np.array(session.loaded.model(IDS)), np.array(base(IDS)))
    with rescaled(session.loaded.model, Rescaling(0.0, 0.0)):
        assert np.array_equal(np.array(session.loaded.model(IDS)), np.array(base(IDS)))
    assert np.array_equal(np.array(session.loaded.model(IDS)), np.array(tuned(IDS)))


def test_a_whole_model_on_another_base_is_refused(
    configure: Callable[..., RunConfig], tiny_model_folder: Path, tmp_path: Path, heard: Heard
) -> None:
    run = tmp_path / "run"
    train(configure(**RATE), run, heard)
    with pytest.raises(InputError, match="trained on another base"):
        put_learnt(load_model(str(tiny_model_folder), "fp32").model, find_learnt(run), "0" * 64)


@pytest.mark.parametrize("damaged", ["", "[]", '{"mlx_loopai": 3}', '{"mlx_loopai": {"lora": {"layers": "x"}}}'])
def test_a_damaged_record_is_an_input_error(tiny_model_folder: Path, tmp_path: Path, damaged: str) -> None:
    (tmp_path / UPDATE_FILE).write_text(damaged, encoding="utf-8")
    with pytest.raises(InputError, match=UPDATE_FILE):
        put_learnt(load_model(str(tiny_model_folder), "fp32").model, tmp_path)


def test_commands_that_want_an_adapter_name_the_model(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    with pytest.raises(InputError, match="trained a whole model; give .*model as `model`"):
        find_adapter(tmp_path)


def test_a_run_that_does_not_fit_is_refused_with_its_terms(
    configure: Callable[..., RunConfig], tmp_path: Path, heard: Heard
) -> None:
    with pytest.raises(LoopaiError, match="the run needs .* weights"):
        train(configure(**RATE, memory__budget="560MiB"), tmp_path / "run", heard)
    assert not (tmp_path / "run").exists()
