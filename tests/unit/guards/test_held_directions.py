"""The update is kept off the largest singular directions of a weight."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optimizers
import numpy as np
import pytest

from mlx_loopai.config import RunConfig, load_config
from mlx_loopai.errors import InputError
from mlx_loopai.guards.held_directions import HeldDirections, held_directions
from mlx_loopai.guards.terms import memory_terms
from mlx_loopai.memory.machine import named_machine
from mlx_loopai.memory.plan import plan
from mlx_loopai.models.adapters import load_adapter
from mlx_loopai.models.load import load_model
from mlx_loopai.models.lora import apply_lora, dense_weight, lora_modules
from mlx_loopai.models.shape import ModelShape
from mlx_loopai.runs.listener import Silent
from mlx_loopai.training.process_group import ProcessGroup
from mlx_loopai.training.run import train
from mlx_loopai.training.step import StepSettings, TrainStep
from tests.unit.conftest import Heard, batch, row
from tests.unit.training.test_run import check_resumes_bit_for_bit


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
    HeldDirections(model, energy, Silent())()
    for name, layer in lora_modules(model).items():
        weight = np.array(dense_weight(layer.linear).astype(mx.float32))
        off_left, off_right = _reference(weight, energy)
        expected = off_left @ before[name] @ off_right
        assert np.allclose(np.array(layer.update_matrix()), expected, atol=1e-5)
        assert not np.allclose(expected, before[name], atol=1e-3)


def test_of_a_weight_of_zeros_nothing_is_held() -> None:
    left, right = held_directions(np.zeros((4, 6), np.float32), 0.5)
    assert (left.shape, right.shape) == ((4, 0), (6, 0))


@pytest.fixture
def configure(tiny_model_folder: Path, data_files: dict[str, Path]) -> Callable[..., RunConfig]:
    sources = {"tale": {"path": str(data_files["tale"])}}
    values = {"model": str(tiny_model_folder), "sources": sources}
    settings = ("penalty.held_energy=0.5", "lora.rank=2", "train.max_steps=4", "train.learning_rate=5e-3")
    return lambda *overrides: load_config(None, (*settings, *overrides), values)


def test_a_trained_update_leaves_the_largest_singular_triples_as_they_are(
    configure: Callable[..., RunConfig], tmp_path: Path, heard: Heard
) -> None:
    config = configure("forgetting.questions=0")
    train(config, tmp_path / "run", heard)
    assert ("singular directions", 14) in heard.stages
    loaded = load_model(config.model, "fp32")
    load_adapter(loaded.model, tmp_path / "run" / "adapter", loaded.base_hash)
    for layer in lora_modules(loaded.model).values():
        weight = np.array(dense_weight(layer.linear).astype(mx.float32))
        update = np.array(layer.update_matrix())
        left, right = held_directions(weight, 0.5)
        assert np.abs(update).max() > 1e-4
        assert np.allclose((weight + update) @ right, weight @ right, atol=1e-5)
        assert np.allclose(left.T @ (weight + update), left.T @ weight, atol=1e-5)


def test_it_is_put_back_at_first_and_after_every_step_that_changes_it(adapted: Callable[..., nn.Module]) -> None:
    model, calls = adapted(), []
    step = TrainStep(model, optimizers.AdamW(1e-2), StepSettings(clip=0.0), held=lambda: calls.append(None))
    assert len(calls) == 1
    step([batch([row(9)])], 1e-2)
    assert len(calls) == 2
    model.model.norm.weight = model.model.norm.weight * float("nan")
    assert step([batch([row(9)])], 1e-2).skipped
    assert len(calls) == 2


def test_a_resumed_run_ends_with_the_same_adapter(
    configure: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heard: Heard
) -> None:
    check_resumes_bit_for_bit(configure("forgetting.questions=0"), tmp_path, heard, monkeypatch)


def test_it_is_a_guard_without_a_weight(configure: Callable[..., RunConfig]) -> None:
    config = configure("forgetting.budget=0.02")
    assert config.is_guarded
    assert config.is_judged
    assert not config.has_budget
    assert configure("forgetting.budget=0.02", "penalty.kind=kl").has_budget
    assert not config.without_guards().is_guarded


def test_the_plan_has_room_for_what_is_held(configure: Callable[..., RunConfig], heard: Heard) -> None:
    config = configure("penalty.held_energy=0.3")
    shape = ModelShape.from_folder(Path(config.model))
    found = plan(shape, config, named_machine("m4-16gb"), memory_terms(config.penalty, config.replay))
    model = load_model(config.model, "fp32").model
    layers = apply_lora(model, config.lora, 0).values()
    expected = sum(math.ceil(0.3 * min(layer.sizes)) * sum(layer.sizes) for layer in layers)
    assert found.terms["penalty"] == 4 * expected
    held = sum(left.size + right.size for _, left, right in HeldDirections(model, 0.3, heard)._held)
    assert 0 < held <= expected


@pytest.mark.parametrize("other", ["lora.dora=true", "lora.start=runs/first", "train.method=full"])
def test_updates_that_it_cannot_hold_are_refused(configure: Callable[..., RunConfig], other: str) -> None:
    with pytest.raises(InputError, match=f"penalty.held_energy holds .*{other.replace('=', '.').split('.')[1]}"):
        configure(other)


def test_several_processes_are_refused(configure: Callable[..., RunConfig], tmp_path: Path, heard: Heard) -> None:
    with pytest.raises(InputError, match="penalty.held_energy 0.5 in 2 processes"):
        train(configure(), tmp_path / "run", heard, group=ProcessGroup(0, 2))
