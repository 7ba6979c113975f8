"""What the options of the optimizer do to an update."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_loopai.config import TrainOptions
from mlx_loopai.training.optimizer import build_optimizer

BETAS, EPS = (0.9, 0.999), 1e-8


def adam(gradients: np.ndarray, rate: float, corrected: bool) -> float:
    """Where a parameter that begins at 0 is after `gradients` (arXiv 1412.6980, algorithm 1)."""
    at, first, second = 0.0, 0.0, 0.0
    for step, gradient in enumerate(gradients, 1):
        first = BETAS[0] * first + (1 - BETAS[0]) * gradient
        second = BETAS[1] * second + (1 - BETAS[1]) * gradient**2
        mean, square = first, second
        if corrected:
            mean, square = first / (1 - BETAS[0] ** step), second / (1 - BETAS[1] ** step)
        at -= rate * mean / (np.sqrt(square) + EPS)
    return at


@pytest.mark.parametrize("name", ["adam", "adamw"])
@pytest.mark.parametrize("corrected", [True, False])
def test_adam_with_and_without_correction(name: str, corrected: bool) -> None:
    gradients, rate = np.random.default_rng(0).normal(1.0, 0.5, 12), 0.01
    optimizer = build_optimizer(TrainOptions(optimizer=name, learning_rate=rate, bias_correction=corrected))
    found = {"x": mx.zeros(1)}
    for gradient in gradients:
        found = optimizer.apply_gradients({"x": mx.array([gradient])}, found)
    assert found["x"].item() == pytest.approx(adam(gradients, rate, corrected), rel=1e-4)


def test_without_correction_the_first_steps_go_further_than_the_rate_says() -> None:
    """Why a rate of PEFT's, whose Adam corrects, is too high for one that does not."""
    steps = np.ones(10)
    assert adam(steps, 1.0, corrected=False) / adam(steps, 1.0, corrected=True) > 5
