"""Rounding to 8 bits moves weights a little, for good, and only matrices."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_loopai.models.load import NANO, Base, load_model
from mlx_loopai.models.rounding import GROUP_SIZE, can_be_rounded, round_weights


def test_every_matrix_moves_by_half_a_step_at_most(tiny_model_folder: Path) -> None:
    model = load_model(NANO, "fp32").model
    before = {name: np.array(module.weight) for name, module in model.named_modules() if "weight" in module}
    round_weights(model)
    moved = 0
    for name, module in model.named_modules():
        if name not in before:
            continue
        now = np.array(module.weight)
        if before[name].ndim == 1 or before[name].shape[-1] % GROUP_SIZE:
            np.testing.assert_array_equal(now, before[name])
            continue
        groups = before[name].reshape(-1, GROUP_SIZE)
        steps = (groups.max(1) - groups.min(1)) / 255
        assert (np.abs(now.reshape(-1, GROUP_SIZE) - groups).max(1) <= 1.01 * steps).all()
        moved += int((now != before[name]).any())
    assert moved > 10


def test_a_rounded_base_is_read_again_for_the_next_run() -> None:
    """Arms of a comparison were trained on the rounded base."""
    base = Base.open(NANO)
    weight = np.array(base.load("fp32").model.model.embed_tokens.weight)
    assert base.load("fp32") is base.loaded
    round_weights(base.loaded.model)
    assert (np.array(base.loaded.model.model.embed_tokens.weight) != weight).any()
    np.testing.assert_array_equal(np.array(base.load("fp32").model.model.embed_tokens.weight), weight)


def test_a_quantised_model_is_told_apart() -> None:
    model = nn.Sequential(nn.Linear(64, 64))
    assert can_be_rounded(model)
    nn.quantize(model, GROUP_SIZE, 4)
    assert not can_be_rounded(model)
    mx.eval(model.parameters())
