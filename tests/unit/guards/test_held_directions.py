"""The update is kept off the largest singular directions of a weight."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_loopai.config import load_config
from mlx_loopai.guards.held_directions import HeldDirections, held_directions
from mlx_loopai.models.adapters import load_adapter
from mlx_loopai.models.load import load_model
from mlx_loopai.models.lora import dense_weight, lora_modules
from mlx_loopai.runs.listener import Silent
from mlx_loopai.training.run import train


def _reference(weight: np.ndarray, energy: float) -> tuple[np.ndarray, np.ndarray]:
    """Projections (1 - U U^T, 1 - V V^T) by the eigenvectors of W W^T and W^T W, added one at a time."""
    weight = weight.astype(np.float64)
    squares, left = np.linalg.eigh(weight @ weight.T)
    _, right = np.linalg.eigh(weight.T @ weight)
    off_left, off_right = np.eye(len(weight)), np.eye(weight.shape[1])
    kept = 0.0
    for k in range(1, min(weight.shape) + 1):
        off_left -= np.outer(left[:, -k], left[:, -k])
        off_right -= np.outer(right[:, -k], right[:, -k])
        kept += squares[-k]
        if kept >= energy * squares.sum():
            break
    return off_left, off_right


@pytest.mark.parametrize("energy", [0.25, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (7, 7)])
def test_as_few_directions_as_hold_the_energy(shape: tuple[int, int], energy: float) -> None:
    weight = np.random.default_rng(3).normal(size=shape).astype(np.float32)
    left, right = held_directions(weight, energy)
    off_left, off_right = _reference(weight, energy)
    assert np.allclose(np.eye(shape[0]) - left @ left.T, off_left, atol=1e-4)
    assert np.allclose(np.eye(shape[1]) - right @ right.T, off_right, atol=1e-4)


@pytest.mark.parametrize("energy", [0.25, 0.6])
def test_the_update_is_projected_on_both_sides(adapted: Callable[..., nn.Module], energy: float) -> None:
    model = adapted()
    before = {name: np.array(layer.update_matrix()) for name, layer in lora_modules(model).items()}
    HeldDirections(model, energy)()
    for name, layer in lora_modules(model).items():
        weight = np.array(dense_weight(layer.linear).astype(mx.float32))
        off_left, off_right = _reference(weight, energy)
        expected = off_left @ before[name] @ off_right
        assert np.allclose(np.array(layer.update_matrix()), expected, atol=1e-5)
        assert not np.allclose(expected, before[name], atol=1e-3)


def test_a_trained_update_leaves_the_largest_singular_triples_as_they_are(
    tiny_model_folder: Path, data_files: dict[str, Path], tmp_path: Path
) -> None:
    settings = ("lora.held_energy=0.5", "lora.rank=2", "train.max_steps=4", "train.learning_rate=5e-3")
    sources = {"tale": {"path": str(data_files["tale"])}}
    config = load_config(None, settings, {"model": str(tiny_model_folder), "sources": sources})
    train(config, tmp_path / "run", Silent())
    loaded = load_model(config.model, "fp32")
    load_adapter(loaded.model, tmp_path / "run" / "adapter", loaded.base_hash)
    for layer in lora_modules(loaded.model).values():
        weight = np.array(dense_weight(layer.linear).astype(mx.float32))
        update = np.array(layer.update_matrix())
        left, right = held_directions(weight, 0.5)
        assert np.abs(update).max() > 1e-4
        assert np.allclose((weight + update) @ right, weight @ right, atol=1e-5)
        assert np.allclose(left.T @ (weight + update), left.T @ weight, atol=1e-5)
