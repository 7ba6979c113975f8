"""Importance against a slow reference: one backward pass for each row and layer, every matrix in full."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_loopai.data.tokens import TokenRow
from mlx_loopai.guards.importance import Importance, InputSample, _normalise, measure_importance
from mlx_loopai.models.lora import LoRALinear, lora_modules
from tests.unit.conftest import batch, row

ROWS = [row(6), row(9, prompt=4, seed=2), row(12, prompt=3, seed=3)]


def observed(model: nn.Module, layer: LoRALinear, one: TokenRow) -> tuple[mx.array, mx.array]:
    """One layer's input and the gradient of a row's summed losses at its output."""
    ids, places = mx.array(one.ids[None, :-1]), mx.array(np.flatnonzero(one.supervised[1:]))
    seen: list[mx.array] = []

    def loss(offset: mx.array) -> mx.array:
        layer.observer = lambda x, y: (seen.append(x), y + offset)[1]
        scores = nn.losses.cross_entropy(model(ids)[0], mx.array(one.ids[1:]), reduction="none")
        return scores[places].sum()

    gradient = mx.grad(loss)(mx.zeros((1, ids.shape[1], layer.lora_b.shape[1])))
    layer.observer = None
    return seen[0], gradient


def slow_moments(model: nn.Module) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Sums of squared inputs and of squared output gradients, row by row, unpadded, through the whole model."""
    layers = lora_modules(model)
    inputs = {name: np.zeros(layer.lora_a.shape[0]) for name, layer in layers.items()}
    outputs = {name: np.zeros(layer.lora_b.shape[1]) for name, layer in layers.items()}
    for layer in layers.values():
        layer.enabled = False
    for one in ROWS:
        for name, layer in layers.items():
            seen, gradient = observed(model, layer, one)
            outputs[name] += np.square(np.array(gradient, np.float64)).sum((0, 1))
            inputs[name] += np.square(np.array(seen, np.float64)).sum((0, 1))
    for layer in layers.values():
        layer.enabled = True
    return outputs, inputs


def reference(
    output: dict[str, np.ndarray], input_: dict[str, np.ndarray], temperature: float
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """(Omega without its coefficient, coefficients), with every matrix written out."""
    omega = {name: np.outer(output[name], input_[name]) for name in output}
    mean = np.concatenate([matrix.ravel() for matrix in omega.values()]).mean()
    omega = {name: matrix / mean for name, matrix in omega.items()}
    norms = {name: np.linalg.norm(matrix) for name, matrix in omega.items()}
    raised = {name: (norm / np.mean(list(norms.values()))) ** (1 / temperature) for name, norm in norms.items()}
    return omega, {name: value / np.mean(list(raised.values())) for name, value in raised.items()}


@pytest.fixture
def model(adapted: Callable[..., nn.Module]) -> nn.Module:
    return adapted()


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_it_is_the_slow_reference(model: nn.Module, temperature: float) -> None:
    batches = [batch(ROWS[:2], 14), batch(ROWS[2:], 14)]
    measured = measure_importance(model, batches, temperature)
    omega, coefficients = reference(*slow_moments(model), temperature)
    for name, expected in omega.items():
        found = np.outer(np.array(measured.output[name]), np.array(measured.input[name]))
        assert np.abs(found - expected).max() < 1e-3 * expected.max(), name
        assert measured.coefficients[name] == pytest.approx(coefficients[name], rel=1e-3)


def test_means_are_one(model: nn.Module) -> None:
    measured = measure_importance(model, [batch(ROWS)])
    omega = [np.outer(np.array(measured.output[name]), np.array(measured.input[name])) for name in measured.output]
    assert np.concatenate([matrix.ravel() for matrix in omega]).mean() == pytest.approx(1, rel=1e-4)
    assert np.mean(list(measured.coefficients.values())) == pytest.approx(1, rel=1e-6)
    assert all((matrix >= 0).all() for matrix in omega)


def test_a_high_temperature_makes_all_layers_alike(model: nn.Module) -> None:
    sharp = measure_importance(model, [batch(ROWS)], temperature=0.5).coefficients.values()
    plain = measure_importance(model, [batch(ROWS)], temperature=1.0).coefficients.values()
    flat = measure_importance(model, [batch(ROWS)], temperature=1000.0).coefficients.values()
    assert np.std(list(sharp)) > np.std(list(plain)) > np.std(list(flat))
    assert list(flat) == pytest.approx([1.0] * len(flat), abs=0.01)


def test_it_is_the_bases_whatever_the_adapter_learnt(model: nn.Module, adapted: Callable[..., nn.Module]) -> None:
    other = adapted()
    for layer in lora_modules(other).values():
        layer.lora_b = layer.lora_b * 10
    other.train()
    one, two = (measure_importance(each, [batch(ROWS)]) for each in (model, other))
    for name in one.output:
        assert np.array_equal(np.array(one.output[name]), np.array(two.output[name]))
    assert all(layer.enabled and layer.observer is None for layer in lora_modules(other).values())


def test_padding_and_grouping_do_not_matter(model: nn.Module) -> None:
    one = measure_importance(model, [batch(ROWS)])
    other = measure_importance(model, [batch([each], 20) for each in ROWS])
    assert one.tokens == other.tokens == sum(len(each.ids) - 1 for each in ROWS)
    for name in one.output:
        assert np.allclose(np.array(one.output[name]), np.array(other.output[name]), rtol=1e-3)
        assert np.allclose(np.array(one.input[name]), np.array(other.input[name]), rtol=1e-3)


def test_a_number_by_hand() -> None:
    measured = _normalise({"a": mx.array([1.0, 3.0])}, {"a": mx.array([2.0])}, {}, temperature=1.0, tokens=5)
    found = np.outer(np.array(measured.output["a"]), np.array(measured.input["a"]))
    assert np.allclose(found, [[0.5], [1.5]])
    assert measured.coefficients == {"a": 1.0}


def test_kept_activations_are_inputs_on_the_scale_of_their_moments(model: nn.Module) -> None:
    measured = measure_importance(model, [batch(ROWS, 20)], sample=InputSample(1000))
    for name, kept in measured.activations.items():
        assert kept.shape == (measured.tokens, measured.input[name].size)
        assert np.allclose(np.square(np.array(kept)).mean(0), np.array(measured.input[name]), rtol=1e-3)
    few = measure_importance(model, [batch([each]) for each in ROWS], sample=InputSample(5))
    assert {len(kept) for kept in few.activations.values()} == {6}
    assert measure_importance(model, [batch(ROWS)]).activations == {}


def test_layers_that_read_the_same_input_share_its_activations(model: nn.Module, tmp_path: Path) -> None:
    measured = measure_importance(model, [batch(ROWS)], sample=InputSample(4))
    measured.save(tmp_path / "importance.safetensors")
    for found in (measured, Importance.load(tmp_path / "importance.safetensors")):
        kept = {name.removeprefix("model.layers.0."): id(array) for name, array in found.activations.items()}
        assert kept["self_attn.q_proj"] == kept["self_attn.k_proj"] == kept["self_attn.v_proj"]
        assert kept["mlp.gate_proj"] == kept["mlp.up_proj"]
        assert len(set(kept.values())) == 4 * 2


def test_kept_activations_can_be_those_that_open_an_answer(model: nn.Module) -> None:
    """Row 9's first four answer tokens are predicted at positions 3 to 6."""
    (layer,) = (layer for name, layer in lora_modules(model).items() if name == "model.layers.0.self_attn.q_proj")
    layer.enabled = False
    seen, _ = observed(model, layer, ROWS[1])
    layer.enabled = True
    kept = measure_importance(model, [batch(ROWS[1:2])], sample=InputSample(4, opening_share=1.0))
    found = np.array(kept.activations["model.layers.0.self_attn.q_proj"])
    expected = np.array(seen)[0, 3:7]
    scale = np.linalg.norm(found) / np.linalg.norm(expected)
    assert np.allclose(found[np.argsort(found[:, 0])], scale * expected[np.argsort(expected[:, 0])], atol=1e-4)


def test_what_is_saved_is_what_is_loaded(model: nn.Module, tmp_path: Path) -> None:
    measured = measure_importance(model, [batch(ROWS)], sample=InputSample(4))
    measured.save(tmp_path / "importance.safetensors")
    loaded = Importance.load(tmp_path / "importance.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["importance.safetensors"]
    assert loaded.tokens == measured.tokens
    assert loaded.coefficients == pytest.approx(measured.coefficients)
    for name in measured.output:
        assert np.array_equal(np.array(loaded.output[name]), np.array(measured.output[name]))
        assert np.array_equal(np.array(loaded.input[name]), np.array(measured.input[name]))
        assert np.array_equal(np.array(loaded.activations[name]), np.array(measured.activations[name]))
