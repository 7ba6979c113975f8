"""Whole updates: their gradient is the weight's own, the base stays, and guards weigh them as their sums say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_loopai.config import LoraOptions
from mlx_loopai.errors import InputError
from mlx_loopai.guards.dense_importance import dense_penalty
from mlx_loopai.guards.fisher import measure_fisher
from mlx_loopai.guards.guard import Penalty
from mlx_loopai.guards.importance import InputSample, measure_importance
from mlx_loopai.guards.kronecker import kronecker_penalty
from mlx_loopai.guards.sketch import sketch_penalty
from mlx_loopai.models.backbone import hidden_states
from mlx_loopai.models.full import FullLinear, apply_full, full_modules
from mlx_loopai.models.load import load_model
from mlx_loopai.models.lora import adapter_disabled, apply_lora
from tests.unit.conftest import batch, row

IDS = mx.array([[5, 9, 2, 30, 7, 11], [8, 1, 40, 3, 3, 60]])
GENERAL = [batch([row(9, prompt=2, seed=seed) for seed in range(3)])]


def changed(folder: Path, dtype: str = "fp32") -> nn.Module:
    """The tiny model with whole updates that do something."""
    model = load_model(str(folder), dtype).model
    mx.random.seed(3)
    for layer in apply_full(model, LoraOptions()).values():
        layer.delta = 0.05 * mx.random.normal(layer.delta.shape)
    return model


def test_nothing_changes_before_it_learns_and_the_base_stays(tiny_model_folder: Path) -> None:
    base = load_model(str(tiny_model_folder), "fp32").model
    before = np.array(base(IDS))
    apply_full(base, LoraOptions())
    assert np.array_equal(np.array(base(IDS)), before)
    model = changed(tiny_model_folder)
    assert np.abs(np.array(model(IDS)) - before).max() > 0.01
    with adapter_disabled(model):
        assert np.array_equal(np.array(model(IDS)), before)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_gradient_is_that_of_the_weight_itself(tiny_model_folder: Path, checkpointing: bool) -> None:
    def loss(model: nn.Module) -> mx.array:
        return mx.square(hidden_states(model, IDS, checkpointing)).sum()

    def of_weights(model: nn.Module) -> dict[str, mx.array]:
        return dict(tree_flatten(nn.value_and_grad(model, loss)(model)[1]))

    model = changed(tiny_model_folder)
    found = of_weights(model)
    plain = load_model(str(tiny_model_folder), "fp32").model
    plain.freeze()
    for name, layer in full_modules(model).items():
        block, place = int(name.split(".")[2]), ".".join(name.split(".")[3:])
        linear = dict(plain.layers[block].named_modules())[place]
        linear.weight = layer.changed_weight
        linear.unfreeze(keys=["weight"], recurse=False)
    wanted = of_weights(plain)
    assert len(found) == len(wanted) > 0
    for name, gradient in found.items():
        expected = np.array(wanted[name.replace(".delta", ".weight")])
        np.testing.assert_allclose(np.array(gradient), expected, atol=1e-5 * np.abs(expected).max())


def test_in_half_precision_small_updates_are_not_lost_and_gradients_are_float32() -> None:
    mx.random.seed(0)
    linear = nn.Linear(64, 32)
    linear.set_dtype(mx.bfloat16)
    layer = FullLinear(linear)
    for _ in range(64):
        layer.delta = layer.delta + 1e-5
    # Added to the weight itself, each would have been rounded away.
    moved = layer.changed_weight.astype(mx.float32) - linear.weight.astype(mx.float32)
    assert abs(moved.mean().item() - 64e-5) < 1e-4
    gradient = mx.grad(lambda delta: _with(layer, delta)(mx.ones((3, 64), mx.bfloat16)).sum())(layer.delta)
    assert gradient.dtype == mx.float32


def _with(layer: FullLinear, delta: mx.array) -> FullLinear:
    layer.delta = delta
    return layer


def test_only_the_named_layers_of_the_last_blocks_learn(tiny_model_folder: Path) -> None:
    model = load_model(str(tiny_model_folder), "fp32").model
    names = apply_full(model, LoraOptions(targets=("q_proj", "down_proj"), layers=1))
    last = len(model.layers) - 1
    assert list(names) == [f"model.layers.{last}.mlp.down_proj", f"model.layers.{last}.self_attn.q_proj"]
    assert {name for name, _ in tree_flatten(model.trainable_parameters())} == {f"{name}.delta" for name in names}


def test_a_quantised_base_and_a_second_update_are_refused(tiny_model_folder: Path) -> None:
    model = load_model(str(tiny_model_folder), "fp32").model
    nn.quantize(model, group_size=32, bits=4)
    with pytest.raises(InputError, match="this base is quantised"):
        apply_full(model, LoraOptions())
    with pytest.raises(InputError, match="has an adapter already"):
        apply_lora(changed(tiny_model_folder), LoraOptions(), 0)


def kronecker(model: nn.Module) -> tuple[Penalty, Callable[[str, np.ndarray], float]]:
    state = measure_importance(model, GENERAL)

    def term(name: str, delta: np.ndarray) -> float:
        omega = np.outer(np.array(state.output[name]), np.array(state.input[name]))
        return state.coefficients[name] * (omega * delta**2).sum()

    return kronecker_penalty(state), term


def sketch(model: nn.Module) -> tuple[Penalty, Callable[[str, np.ndarray], float]]:
    state = measure_importance(model, GENERAL, sample=InputSample(7))

    def term(name: str, delta: np.ndarray) -> float:
        moved = np.array(state.activations[name]) @ delta.T
        return state.coefficients[name] * (np.array(state.output[name]) * (moved**2).mean(axis=0)).sum()

    return sketch_penalty(state), term


def fisher(model: nn.Module) -> tuple[Penalty, Callable[[str, np.ndarray], float]]:
    state = measure_fisher(model, GENERAL)

    def term(name: str, delta: np.ndarray) -> float:
        return state.coefficients[name] * (np.array(state.omega[name]) * delta**2).sum()

    return dense_penalty(state), term


@pytest.mark.parametrize("guard", [kronecker, sketch, fisher])
def test_guards_weigh_whole_updates_as_their_sums_say(
    tiny_model_folder: Path, guard: Callable[[nn.Module], tuple[Penalty, Callable[[str, np.ndarray], float]]]
) -> None:
    model = changed(tiny_model_folder)
    penalty, term = guard(model)
    wanted = sum(term(name, np.array(layer.delta)) for name, layer in full_modules(model).items())
    assert penalty(model).item() == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("guard", [kronecker, sketch, fisher])
def test_a_low_rank_update_weighs_the_same_in_either_form(
    adapted: Callable[..., nn.Module], tiny_model_folder: Path, guard: Callable[[nn.Module], tuple[Penalty, object]]
) -> None:
    low = adapted()
    whole = load_model(str(tiny_model_folder), "fp32").model
    layers = apply_full(whole, LoraOptions())
    penalty, _ = guard(whole)
    for name, layer in dict(low.named_modules()).items():
        if name in layers:
            layers[name].delta = layer.update_matrix()
    assert penalty(low).item() == pytest.approx(penalty(whole).item(), rel=1e-4)
