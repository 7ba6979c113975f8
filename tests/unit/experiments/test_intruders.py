"""Intruder dimensions of an adapter: found, counted, scaled."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_loopai.experiments.intruders import Removal, count, intruders, removed
from mlx_loopai.models.lora import dense_weight, lora_modules


def _weight(*values: float, size: int = 8, seed: int = 4) -> np.ndarray:
    """A random (size, size) matrix with these singular values."""
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.normal(size=(size, size)))[0] for _ in range(2))
    return ((left * np.array(values)) @ right.T).astype(np.float32)


def _reference(weight: np.ndarray, update: np.ndarray, top: int, epsilon: float) -> list[tuple[float, np.ndarray]]:
    """(singular value, its part of the tuned weight) of every intruder, by eigenvectors and loops."""
    tuned = (weight + update).astype(np.float64)
    _, base = np.linalg.eigh(weight.astype(np.float64) @ weight.T.astype(np.float64))
    base = base[:, -min(weight.shape) :]  # those with a singular value above 0
    squares, left = np.linalg.eigh(tuned @ tuned.T)
    found = []
    for place in range(1, top + 1):
        vector = left[:, -place]
        if all(abs(float(vector @ base[:, other])) < epsilon for other in range(base.shape[1])):
            found.append((float(np.sqrt(squares[-place])), np.outer(vector, vector) @ tuned))
    return found


def test_without_an_update_nothing_intrudes() -> None:
    weight = _weight(8, 7, 6, 5, 4, 3, 2, 1)
    assert len(intruders(weight, np.zeros_like(weight), 8, 0.999).values) == 0


def test_a_large_new_direction_intrudes_and_a_larger_old_one_does_not() -> None:
    weight = _weight(8, 7, 6, 5, 4, 3, 2, 1)
    left, _, right = np.linalg.svd(weight)
    old = 20 * np.outer(left[:, 2], right[2])
    spread = left @ np.full(8, 8**-0.5)  # cosine 0.354 with every left direction
    new = 40 * np.outer(spread, right[0])
    assert len(intruders(weight, old.astype(np.float32), 1, 0.5).values) == 0
    found = intruders(weight, new.astype(np.float32), 1, 0.5)
    assert found.values == pytest.approx([np.linalg.svd(weight + new)[1][0]], rel=1e-5)


@pytest.mark.parametrize("epsilon", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("shape", [(12, 12), (16, 10), (10, 16)])
def test_they_are_those_of_the_definition(shape: tuple[int, int], epsilon: float) -> None:
    rng = np.random.default_rng(7)
    weight = rng.normal(size=shape).astype(np.float32)
    update = (rng.normal(size=(shape[0], 2)) @ rng.normal(size=(2, shape[1]))).astype(np.float32)
    found, expected = intruders(weight, update, 6, epsilon), _reference(weight, update, 6, epsilon)
    assert list(found.values) == pytest.approx([value for value, _ in expected], rel=1e-4)
    parts = [value * np.outer(u, v) for value, u, v in zip(found.values, found.left.T, found.right.T, strict=True)]
    for part, (_, same) in zip(parts, expected, strict=True):
        assert np.allclose(part, same, atol=1e-3)


@pytest.mark.parametrize("kept", [0.0, 0.3])
@pytest.mark.parametrize("whole", [True, False])
def test_they_are_scaled_and_all_is_as_before_afterwards(
    adapted: Callable[..., nn.Module], kept: float, whole: bool
) -> None:
    model = adapted()
    removal = Removal(kept, epsilon=0.9, top=4, whole=whole)
    updates = {name: np.array(layer.update_matrix()) for name, layer in lora_modules(model).items()}
    expected, seen = {}, 0
    for name, layer in lora_modules(model).items():
        weight = np.array(dense_weight(layer.linear).astype(mx.float32))
        found = _reference(weight, updates[name], 4, 0.9)
        seen += len(found)
        expected[name] = updates[name].astype(np.float64)
        for value, part in found:
            across = part @ part.T / value**2  # u u^T
            expected[name] = expected[name] - (1 - kept) * (part if whole else across @ updates[name])
    assert count(model, 4, 0.9) == seen > 0
    with removed(model, removal):
        for name, layer in lora_modules(model).items():
            assert np.allclose(np.array(layer.update_matrix()), expected[name], atol=1e-4)
    for name, layer in lora_modules(model).items():
        assert np.array_equal(np.array(layer.update_matrix()), updates[name])
