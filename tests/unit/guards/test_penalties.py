from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_loopai.guards.dense_importance import DenseImportance, dense_penalty
from mlx_loopai.guards.importance import Importance
from mlx_loopai.guards.kronecker import kronecker_penalty
from mlx_loopai.guards.sketch import sketch_penalty
from mlx_loopai.models.lora import lora_modules

PENALTIES = {"kronecker": kronecker_penalty, "sketch": sketch_penalty}
FEW, MANY = 5, 40  # activations: fewer than half of any layer's inputs, and more than half of all of them


def drawn(model: nn.Module, count: int = FEW) -> Importance:
    generator = np.random.default_rng(0)
    layers = lora_modules(model)

    def arrays(*shapes: tuple[int, ...]) -> dict[str, mx.array]:
        values = (generator.uniform(0, 2, shape).astype(np.float32) for shape in shapes)
        return dict(zip(layers, map(mx.array, values), strict=True))

    n_in = [layer.lora_a.shape[0] for layer in layers.values()]
    n_out = [layer.lora_b.shape[1] for layer in layers.values()]
    coefficients = {name: float(generator.uniform(0.5, 2)) for name in layers}
    activations = arrays(*((count, size) for size in n_in))
    for name in layers:  # as in a model: q, k and v read the same input
        parent, _, last = name.rpartition(".")
        activations[name] = activations[f"{parent}.q_proj"] if last in ("k_proj", "v_proj") else activations[name]
    return Importance(
        arrays(*((size,) for size in n_out)), arrays(*((size,) for size in n_in)), coefficients, 1, activations
    )


def dense(kind: str, model: nn.Module, importance: Importance) -> tuple[float, dict[str, np.ndarray]]:
    """sum_l c_l sum_i u_i (DW V DW^T)_ii and its gradients, with every matrix written out.

    V is diag(v) for `kronecker`, the mean of x x^T over the stored activations for `sketch`.
    """
    total, gradients = 0.0, {}
    for name, layer in lora_modules(model).items():
        a, b = np.array(layer.lora_a, np.float64), np.array(layer.lora_b, np.float64)
        outputs = importance.coefficients[name] * np.diag(np.array(importance.output[name], np.float64))
        x = np.array(importance.activations[name], np.float64)
        inputs = np.diag(np.array(importance.input[name], np.float64)) if kind == "kronecker" else x.T @ x / len(x)
        update = layer.scale * (a @ b).T
        total += np.trace(outputs @ update @ inputs @ update.T)
        pull = 2 * layer.scale * outputs @ update @ inputs  # (D_out, D_in)
        gradients[f"{name}.lora_a"] = pull.T @ b.T
        gradients[f"{name}.lora_b"] = a.T @ pull.T
    return total, gradients


@pytest.mark.parametrize(("kind", "count"), [("kronecker", FEW), ("sketch", FEW), ("sketch", MANY)])
def test_value_and_gradient_are_those_of_the_dense_sum(
    adapted: Callable[..., nn.Module], kind: str, count: int
) -> None:
    model = adapted()
    sizes = {layer.lora_a.shape[0] for layer in lora_modules(model).values()}
    assert min(sizes) >= 2 * FEW
    assert max(sizes) < 2 * MANY
    importance = drawn(model, count)
    penalty = PENALTIES[kind](importance)
    value, gradients = nn.value_and_grad(model, lambda: penalty(model))()
    expected, expected_gradients = dense(kind, model, importance)
    assert value.item() == pytest.approx(expected, rel=1e-5)
    found = {name: np.array(array) for name, array in tree_flatten(gradients)}
    assert found.keys() == expected_gradients.keys()
    for name, array in expected_gradients.items():
        assert np.abs(found[name] - array).max() <= 1e-5 * np.abs(array).max(), name


@pytest.mark.parametrize("kind", ["kronecker", "sketch"])
def test_at_the_base_it_is_nothing(adapted: Callable[..., nn.Module], kind: str) -> None:
    model = adapted()
    penalty = PENALTIES[kind](drawn(model))
    for layer in lora_modules(model).values():
        layer.lora_b = mx.zeros_like(layer.lora_b)
    value, gradients = nn.value_and_grad(model, lambda: penalty(model))()
    assert value.item() == 0
    assert not any(np.array(array).any() for _, array in tree_flatten(gradients))


def test_the_dense_penalty_by_hand(adapted: Callable[..., nn.Module]) -> None:
    """sum_ij Omega_ij (DW_ij - DW*_ij)^2 and its gradients; half of the layers have an anchor."""
    model, generator = adapted(), np.random.default_rng(1)
    omega, coefficients, anchor, total, expected = {}, {}, {}, 0.0, {}
    for number, (name, layer) in enumerate(lora_modules(model).items()):
        a, b = np.array(layer.lora_a, np.float64), np.array(layer.lora_b, np.float64)
        matrix, c = generator.uniform(0, 2, (b.shape[1], a.shape[0])), generator.uniform(0.5, 2)
        there_a, there_b = (generator.normal(size=each.shape) * (number % 2) for each in (a, b))
        moved = layer.scale * ((a @ b).T - (there_a @ there_b).T)
        total += c * (matrix * moved**2).sum()
        pull = 2 * c * layer.scale * matrix * moved
        expected |= {f"{name}.lora_a": pull.T @ b.T, f"{name}.lora_b": a.T @ pull.T}
        omega[name], coefficients[name] = mx.array(matrix.astype(np.float32)), c
        if number % 2:
            anchor[name] = (mx.array(there_a.astype(np.float32)), mx.array(there_b.astype(np.float32)))
    penalty = dense_penalty(DenseImportance(omega, coefficients, 1, anchor))
    value, gradients = nn.value_and_grad(model, lambda: penalty(model))()
    assert value.item() == pytest.approx(total, rel=1e-5)
    for name, array in tree_flatten(gradients):
        assert np.abs(np.array(array) - expected[name]).max() <= 1e-4 * np.abs(expected[name]).max(), name


def test_the_kronecker_penalty_by_hand(adapted: Callable[..., nn.Module]) -> None:
    """sum_ij u_i v_j DW_ij^2, as the formula reads."""
    model = adapted()
    importance = drawn(model)
    total = 0.0
    for name, layer in lora_modules(model).items():
        update = layer.scale * (np.array(layer.lora_a, np.float64) @ np.array(layer.lora_b, np.float64)).T
        omega = np.outer(np.array(importance.output[name]), np.array(importance.input[name]))
        total += importance.coefficients[name] * (omega * update**2).sum()
    assert PENALTIES["kronecker"](importance)(model).item() == pytest.approx(total, rel=1e-5)
