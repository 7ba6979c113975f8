"""One base serves one run after another."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_loopai.config import LoraOptions
from mlx_loopai.models.load import Base
from mlx_loopai.models.lora import apply_lora, lora_modules

IDS = mx.array([[5, 17, 230, 9, 44]])


@pytest.mark.parametrize("dora", [False, True])
def test_an_adapter_is_taken_off_before_the_next_run(tiny_model_folder: Path, dora: bool) -> None:
    base = Base.open(str(tiny_model_folder))
    model = base.load("fp32").model
    plain = np.array(model(IDS))
    for layer in apply_lora(model, LoraOptions(rank=2, dora=dora), seed=0).values():
        layer.lora_b = mx.random.normal(layer.lora_b.shape)
    assert not np.array_equal(np.array(model(IDS)), plain)
    again = base.load("fp32")
    assert again is base.loaded
    assert lora_modules(again.model) == {}
    assert np.array_equal(np.array(again.model(IDS)), plain)
    assert not again.model.training


def test_another_precision_is_read_anew(tiny_model_folder: Path) -> None:
    base = Base.open(str(tiny_model_folder))
    first, half = base.load("fp32"), base.load("bf16")
    assert half is not first
    assert half.model.model.norm.weight.dtype == mx.bfloat16
    assert (half.base_hash, half.path) == (first.base_hash, first.path)
    assert base.load("bf16") is half
