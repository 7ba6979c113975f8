"""The path integrals and the Fisher diagonal against numpy, with gradients from a dense probe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_loopai.config import LoraOptions, PathOptions
from mlx_loopai.data.tokens import TokenRow
from mlx_loopai.guards.dense_importance import DenseImportance, dense_penalty
from mlx_loopai.guards.fisher import measure_fisher
from mlx_loopai.guards.hierarchical import Hierarchical
from mlx_loopai.guards.hlora import Hlora
from mlx_loopai.guards.path_integral import PathForm, measure_path
from mlx_loopai.models.load import load_model
from mlx_loopai.models.lora import adapter_disabled, apply_lora, lora_modules
from tests.unit.conftest import batch, row

BATCHES = [[row(6), row(9, prompt=4, seed=2)], [row(12, prompt=3, seed=3)]]
OPTIONS = PathOptions(epochs=2, learning_rate=5e-3)
RELEASED, CORRECTED = Hlora.form, Hierarchical.form


@pytest.fixture
def model(adapted: Callable[..., nn.Module]) -> nn.Module:
    return adapted()


def probed(model: nn.Module, rows: list[TokenRow]) -> dict[str, np.ndarray]:
    """dL/dDW (D_out, D_in) of the mean token loss: the gradient of a dense matrix that is 0."""
    layers = lora_modules(model)
    tokens = sum(int(one.supervised[1:].sum()) for one in rows)

    def loss(probes: dict[str, mx.array]) -> mx.array:
        for name, layer in layers.items():
            layer.observer = lambda x, y, name=name: y + x @ probes[name].T
        total = mx.zeros(())
        for one in rows:
            ids, places = mx.array(one.ids[None, :-1]), mx.array(np.flatnonzero(one.supervised[1:]))
            losses = nn.losses.cross_entropy(model(ids)[0], mx.array(one.ids[1:]), reduction="none")
            total = total + losses[places].sum()
        return total / tokens

    gradients = mx.grad(loss)({n: mx.zeros((v.lora_b.shape[1], v.lora_a.shape[0])) for n, v in layers.items()})
    for layer in layers.values():
        layer.observer = None
    return {name: np.array(array, np.float64) for name, array in gradients.items()}


class Descent:
    """AdamW as PyTorch has it, without bias correction as MLX has it, in numpy."""

    def __init__(self) -> None:
        self.moments: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def __call__(self, name: str, value: np.ndarray, gradient: np.ndarray, rate: float) -> np.ndarray:
        first, second = self.moments.get(name, (np.zeros_like(value), np.zeros_like(value)))
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        self.moments[name] = first, second
        return value * (1 - rate * 0.01) - rate * first / (np.sqrt(second) + 1e-8)


def slow_path(model: nn.Module, form: PathForm) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(Omega before any normalisation, DW at the end), as the formulas read."""
    layers, descent = lora_modules(model), Descent()
    factors = {n: (np.array(v.lora_a, np.float64), np.array(v.lora_b, np.float64)) for n, v in layers.items()}
    path = {name: np.zeros((b.shape[1], a.shape[0])) for name, (a, b) in factors.items()}
    omega = {name: np.zeros_like(array) for name, array in path.items()}
    scale = next(iter(layers.values())).scale
    for step in range(4):
        rate = 5e-3 * (1 - step / 4)
        for name, gradient in probed(model, BATCHES[step % 2]).items():
            a, b = factors[name]
            pull_a, pull_b = scale * gradient.T @ b.T, scale * a.T @ gradient.T
            direction = scale * (pull_a @ b + a @ pull_b - rate * pull_a @ pull_b).T
            new = descent(f"{name}.a", a, pull_a, rate), descent(f"{name}.b", b, pull_b, rate)
            moved = scale * (new[0] @ new[1] - a @ b).T
            path[name] -= (gradient if form.true_gradient else direction) * moved
            if form.clamp_each_step:
                path[name] = np.maximum(path[name], 0)
            factors[name] = new
        for name, (a, b) in factors.items():
            layers[name].lora_a, layers[name].lora_b = (mx.array(each.astype(np.float32)) for each in (a, b))
            update = scale * (a @ b).T
            if step == 3 or (form.each_epoch and step % 2):
                damping = form.damping * (np.mean(update**2) if form.relative else 1)
                omega[name] += np.maximum(path[name], 0) / (update**2 + damping)
                path[name][:] = 0
    return omega, {name: scale * (a @ b).T for name, (a, b) in factors.items()}


BETWEEN = replace(RELEASED, damping=1e-3, clamp_each_step=False, softmax_scale=None, anchor_at_base=True)
FORMS = [RELEASED, CORRECTED, BETWEEN]


@pytest.mark.parametrize("form", FORMS, ids=["released", "corrected", "between"])
def test_it_is_the_path_integral_as_the_formulas_read(adapted: Callable[..., nn.Module], form: PathForm) -> None:
    # Larger damping than the released 1e-9, under which rounding of DW decides.
    form = PathForm(**(vars(form) | {"damping": max(form.damping, 1e-4)}))
    model = adapted()
    before = {name: np.array(layer.lora_b) for name, layer in lora_modules(model).items()}
    measured = measure_path(model, [batch(rows) for rows in BATCHES], form, OPTIONS)
    assert all(np.array_equal(before[name], np.array(layer.lora_b)) for name, layer in lora_modules(model).items())
    omega, ended = slow_path(adapted(), form)
    mean = np.concatenate([array.ravel() for array in omega.values()]).mean()
    divisor = mean if form.softmax_scale is None else 1.0
    for name, expected in omega.items():
        found = np.array(measured.omega[name])
        assert np.abs(found - expected / divisor).max() < 2e-2 * expected.max() / divisor, name
        assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.999
    norms = np.array([np.linalg.norm(array) for array in omega.values()])
    if form.softmax_scale is None:
        assert list(measured.coefficients.values()) == pytest.approx(norms / norms.mean(), rel=1e-2)
    else:
        expected_coefficients = np.exp(form.softmax_scale * norms)
        wanted = expected_coefficients / expected_coefficients.sum()
        assert list(measured.coefficients.values()) == pytest.approx(wanted, rel=1e-3)
    assert bool(measured.anchor) is not form.anchor_at_base
    for name, (a, b) in measured.anchor.items():
        update = lora_modules(model)[name].scale * np.array(a @ b).T
        assert np.abs(update - ended[name]).max() < 1e-3 * np.abs(ended[name]).max()


def test_every_part_of_a_form_can_be_set() -> None:
    assert RELEASED.changed(PathOptions()) == RELEASED
    mixed = RELEASED.changed(PathOptions(true_gradient=True, damping=0.5, anchor_at_base=True))
    assert mixed == replace(RELEASED, true_gradient=True, damping=0.5, anchor_at_base=True)


def test_the_fisher_diagonal_is_the_mean_square_of_row_gradients(adapted: Callable[..., nn.Module]) -> None:
    model = adapted()
    measured = measure_fisher(model, [batch(rows) for rows in BATCHES])
    squares: dict[str, np.ndarray] = {}
    with adapter_disabled(model):
        for one in [one for rows in BATCHES for one in rows]:
            for name, gradient in probed(model, [one]).items():
                squares[name] = squares.get(name, 0) + (gradient * int(one.supervised[1:].sum())) ** 2
    mean = np.concatenate([array.ravel() for array in squares.values()]).mean()
    for name, expected in squares.items():
        assert np.abs(np.array(measured.omega[name]) - expected / mean).max() < 1e-3 * expected.max() / mean


def test_on_a_quantised_base_all_kinds_measure(tiny_model_folder: Path) -> None:
    model = _quantised(tiny_model_folder)
    batches = [batch(rows) for rows in BATCHES]
    for found in (
        measure_fisher(model, batches),
        measure_path(model, batches, CORRECTED, OPTIONS),
        measure_path(model, batches, RELEASED, OPTIONS),
    ):
        assert all(np.isfinite(np.array(array)).all() and np.array(array).any() for array in found.omega.values())
        assert np.isfinite(dense_penalty(found)(model).item())


def _quantised(folder: Path) -> nn.Module:
    model = load_model(str(folder), "fp32").model
    nn.quantize(model, group_size=32, bits=8)
    apply_lora(model, LoraOptions(rank=3, alpha=6.0), seed=1)
    return model


def test_what_is_saved_is_what_is_loaded_and_can_be_gone_on_from(model: nn.Module, tmp_path: Path) -> None:
    measured = measure_path(model, [batch(rows) for rows in BATCHES], RELEASED, OPTIONS)
    measured.save(tmp_path / "importance.safetensors")
    loaded = DenseImportance.load(tmp_path / "importance.safetensors")
    assert loaded.coefficients == pytest.approx(measured.coefficients)
    assert all(np.array_equal(np.array(loaded.omega[name]), np.array(measured.omega[name])) for name in measured.omega)
    assert dense_penalty(loaded)(model).item() > 0
    loaded.place(model)
    assert dense_penalty(loaded)(model).item() == 0
