"""A finished update is scaled back until the model is inside its budget."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_loopai.models.lora import LoRALinear, lora_modules
from mlx_loopai.training.scale_back import MOST_READINGS, NEAR, scale_back

BUDGET = 0.02


class Adapted(nn.Module):
    """One adapted linear; `size` is how large its update is, 1 at the start."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = LoRALinear(nn.Linear(4, 4), rank=2, scale=1.0)
        self.layer.lora_b = mx.ones_like(self.layer.lora_b)

    @property
    def size(self) -> float:
        (layer,) = lora_modules(self).values()
        return float(layer.lora_b[0, 0].item())


@given(st.floats(1e-4, 5.0), st.floats(0.7, 4.0))
def test_the_result_is_inside_the_budget_and_near_it(whole: float, power: float) -> None:
    """Whatever power of the scale the distance grows with."""
    model, readings = Adapted(), []

    def read() -> float:
        readings.append(whole * model.size**power)
        return readings[-1]

    found = scale_back(model, whole, BUDGET, read)
    assert found.divergence == pytest.approx(whole * model.size**power, rel=1e-4)
    assert found.scale == pytest.approx(model.size, rel=1e-4)
    assert found.divergence <= BUDGET
    if whole <= BUDGET:
        assert found.scale == 1
        assert not readings
    else:
        assert found.divergence >= NEAR * BUDGET * 0.8
    assert len(readings) <= MOST_READINGS


def test_what_never_comes_inside_is_left_at_its_smallest() -> None:
    model = Adapted()
    found = scale_back(model, 1.0, BUDGET, lambda: 0.5)
    assert 0 < found.scale == pytest.approx(model.size)
    assert found.scale < 0.01
