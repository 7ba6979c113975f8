from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_loopai.models.lora import lora_modules
from mlx_loopai.training.importance import Importance
from mlx_loopai.training.regularizers import kronecker_penalty


def drawn(model: nn.Module) -> Importance:
    generator = np.random.default_rng(0)
    layers = lora_modules(model)
    return Importance(
        {
            name: mx.array(generator.uniform(0, 2, layer.lora_b.shape[1]).astype(np.float32))
            for name, layer in layers.items()
        },
        {
            name: mx.array(generator.uniform(0, 2, layer.lora_a.shape[0]).astype(np.float32))
            for name, layer in layers.items()
        },
        {name: float(generator.uniform(0.5, 2)) for name in layers},
        tokens=1,
    )


def dense(model: nn.Module, importance: Importance) -> tuple[float, dict[str, np.ndarray]]:
    """sum_l c_l sum_ij u_i v_j DW_ij^2 and its gradients, with every DW written out."""
    total, gradients = 0.0, {}
    for name, layer in lora_modules(model).items():
        a, b = np.array(layer.lora_a, np.float64), np.array(layer.lora_b, np.float64)
        omega = np.outer(np.array(importance.output[name]), np.array(importance.input[name]))
        omega *= importance.coefficients[name]
        update = layer.scale * (a @ b).T
        total += (omega * update**2).sum()
        pull = 2 * layer.scale * omega * update  # (D_out, D_in)
        gradients[f"{name}.lora_a"] = pull.T @ b.T
        gradients[f"{name}.lora_b"] = a.T @ pull.T
    return total, gradients


def test_value_and_gradient_are_those_of_the_dense_sum(adapted: Callable[..., nn.Module]) -> None:
    model = adapted()
    importance = drawn(model)
    penalty = kronecker_penalty(importance)
    value, gradients = nn.value_and_grad(model, lambda: penalty(model))()
    expected, expected_gradients = dense(model, importance)
    assert value.item() == pytest.approx(expected, rel=1e-5)
    found = {name: np.array(array) for name, array in tree_flatten(gradients)}
    assert found.keys() == expected_gradients.keys()
    for name, array in expected_gradients.items():
        assert np.abs(found[name] - array).max() <= 1e-5 * np.abs(array).max(), name


def test_at_the_base_it_is_nothing(adapted: Callable[..., nn.Module]) -> None:
    model = adapted()
    importance = drawn(model)
    for layer in lora_modules(model).values():
        layer.lora_b = mx.zeros_like(layer.lora_b)
    value, gradients = nn.value_and_grad(model, lambda: kronecker_penalty(importance)(model))()
    assert value.item() == 0
    assert not any(np.array(array).any() for _, array in tree_flatten(gradients))
