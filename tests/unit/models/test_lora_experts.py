"""Adapters on experts, on request: what they compute, where they go, and what refuses them by name."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_loopai.config import LoraOptions, load_config
from mlx_loopai.errors import InputError
from mlx_loopai.models.adapter_folder import read_adapter
from mlx_loopai.models.adapters import load_adapter, save_adapter
from mlx_loopai.models.full import apply_full
from mlx_loopai.models.load import LoadedModel, load_model
from mlx_loopai.models.lora import adapter_disabled, apply_lora
from mlx_loopai.models.lora_experts import expert_modules
from mlx_loopai.models.shape import ModelShape
from mlx_loopai.training.run import train
from tests.tiny_architectures import write_architecture
from tests.unit.conftest import Heard

IDS = mx.array([[5, 9, 2, 30, 7, 11]])
FORM = LoraOptions(rank=2, alpha=4.0, targets=("q_proj", "switch_mlp.down_proj", "switch_mlp.up_proj"))


@pytest.fixture(scope="module", params=["qwen3_moe", "qwen3_5_moe"])
def folder(request: pytest.FixtureRequest, tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_architecture(tmp_path_factory.mktemp("experts") / "base", request.param, tiny_model_folder)


def adapted(folder: Path, form: LoraOptions = FORM) -> LoadedModel:
    loaded = load_model(str(folder), "fp32")
    apply_lora(loaded.model, form, 1)
    for layer in expert_modules(loaded.model).values():
        layer.lora_b = 0.3 * mx.random.normal(layer.lora_b.shape)
    return loaded


def test_it_computes_what_experts_with_the_update_in_their_weights_compute(folder: Path) -> None:
    base = load_model(str(folder), "fp32").model
    before = np.array(base(IDS))
    loaded = adapted(folder)
    found = np.array(loaded.model(IDS))
    assert np.abs(found - before).max() > 1e-3
    with adapter_disabled(loaded.model):
        assert np.array_equal(np.array(loaded.model(IDS)), before)
    modules = dict(base.named_modules())
    for name, layer in expert_modules(loaded.model).items():
        modules[name].weight = modules[name].weight + layer.update_matrix()
    np.testing.assert_allclose(found, np.array(base(IDS)), atol=1e-4 * np.abs(before).max())


def test_only_the_named_experts_learn_and_none_by_default(folder: Path) -> None:
    names = {name.split(".mlp.")[1] for name in expert_modules(adapted(folder).model)}
    assert names == {"switch_mlp.up_proj", "switch_mlp.down_proj"}
    assert not expert_modules(adapted(folder, LoraOptions()).model)
    learning = {name for name, _ in tree_flatten(adapted(folder).model.trainable_parameters())}
    assert not any("mlp.gate." in name for name in learning)


def test_the_plan_counts_them(folder: Path) -> None:
    model = adapted(folder).model
    counted = ModelShape.from_folder(folder).lora_parameters(FORM.rank, FORM.targets)
    assert counted == sum(array.size for _, array in tree_flatten(model.trainable_parameters()))


def test_it_is_saved_and_loaded_exactly_and_mlx_lm_reads_it(folder: Path, tmp_path: Path) -> None:
    from mlx_lm.tuner.utils import load_adapters

    loaded = adapted(folder)
    save_adapter(tmp_path / "adapter", loaded.model, FORM, loaded.base_hash)
    again = load_model(str(folder), "fp32")
    load_adapter(again.model, tmp_path / "adapter", again.base_hash)
    assert np.array_equal(np.array(again.model(IDS)), np.array(loaded.model(IDS)))
    theirs = load_adapters(load_model(str(folder), "fp32").model, str(tmp_path / "adapter"))
    np.testing.assert_allclose(np.array(theirs(IDS)), np.array(loaded.model(IDS)), atol=2e-4)
    with pytest.raises(InputError, match="updates of experts, which are not merged, fused or exported"):
        read_adapter(tmp_path / "adapter")


@pytest.mark.parametrize("path", ["eager", "compiled"])
def test_a_run_teaches_them_within_its_budget(
    tiny_model_folder: Path, data_files: dict[str, Path], tmp_path: Path, heard: Heard, path: str
) -> None:
    folder = write_architecture(tmp_path / "base", "qwen3_moe", tiny_model_folder)
    options = {
        "model": str(folder), "lora.targets": list(FORM.targets), "lora.rank": 2, "train.path": path,
        "train.max_steps": 2, "train.rows_per_step": 2, "train.learning_rate": 5e-3, "penalty.kind": "kl",
        "forgetting.budget": 1e-4,
    }  # fmt: skip
    config = load_config(None, options, {"sources": {"tale": {"path": str(data_files["tale"])}}})
    summary = train(config, tmp_path / "run", heard)
    assert summary.loss_last < summary.loss_first
    assert summary.budget_spent is not None
    assert summary.budget_spent <= 1e-4
    stored = mx.load(str(tmp_path / "run" / "adapter" / "adapters.safetensors"))
    assert any("switch_mlp" in name and np.array(array).any() for name, array in stored.items() if "lora_b" in name)


def test_what_cannot_be_done_with_experts_is_refused_by_name(
    folder: Path, data_files: dict[str, Path], tmp_path: Path, heard: Heard
) -> None:
    for name, value in (("dora", True), ("dropout", 0.1), ("ranks", "importance")):
        with pytest.raises(InputError, match=f"lora.{name}: not for experts"):
            apply_lora(load_model(str(folder), "fp32").model, FORM.model_copy(update={name: value}), 0)
    with pytest.raises(InputError, match="full does not change experts"):
        apply_full(load_model(str(folder), "fp32").model, FORM)
    options = {
        "model": str(folder), "lora.targets": list(FORM.targets), "penalty.kind": "kronecker", "train.max_steps": 2,
        "general": str(data_files["general"]),
    }  # fmt: skip
    config = load_config(None, options, {"sources": {"tale": {"path": str(data_files["tale"])}}})
    with pytest.raises(InputError, match="penalty.kind kronecker does not measure experts"):
        train(config, tmp_path / "run", heard)
    held = config.penalty.model_copy(update={"kind": "none", "held_energy": 0.25})
    with pytest.raises(InputError, match="penalty.held_energy does not hold experts"):
        train(config.model_copy(update={"penalty": held}), tmp_path / "held", heard)
