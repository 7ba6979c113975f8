"""Every supported architecture trains: the chunked, gathered, checkpointed step against the model's own logits."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_loopai.config import LoraOptions
from mlx_loopai.models.gradient import LossForm, Targets, compiled_gradient, eager_gradient
from mlx_loopai.models.load import build_model
from mlx_loopai.models.lora import apply_lora
from mlx_loopai.models.micro_batch import MicroBatch
from tests.tiny_architectures import CONFIGS, TOLERANCES


def batch() -> MicroBatch:
    generator = np.random.default_rng(0)
    return MicroBatch(generator.integers(0, 97, (3, 14)).astype(np.int32), generator.random((3, 14)) < 0.4)


def adapted(name: str, dora: bool) -> nn.Module:
    mx.random.seed(3)
    model = build_model(CONFIGS[name])
    for layer in apply_lora(model, LoraOptions(rank=3, dora=dora), seed=1).values():
        layer.lora_b = 0.1 * mx.random.normal(layer.lora_b.shape)
    return model


def plain(model: nn.Module, some: MicroBatch) -> tuple[float, dict[str, np.ndarray]]:
    """Loss and gradients through the model's own call and all of its logits."""

    def loss() -> mx.array:
        losses = nn.losses.cross_entropy(model(mx.array(some.ids[:, :-1])), mx.array(some.ids[:, 1:]))
        return (losses * mx.array(some.supervised[:, 1:])).sum()

    value, gradient = nn.value_and_grad(model, loss)()
    return value.item(), {name: np.array(array) for name, array in tree_flatten(gradient)}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("build", [eager_gradient, compiled_gradient])
@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_are_the_plain_ones(name: str, build: Any, checkpointing: bool) -> None:
    model, some = adapted(name, dora=checkpointing), batch()
    expected, gradients = plain(model, some)
    run = build(model, LossForm(chunk_rows=5, checkpointing=checkpointing))
    for _ in range(2):
        (value, _), found = run(mx.array(some.ids[:, :-1]), Targets.of(some))
        assert float(value) == pytest.approx(expected, rel=1e-5)
        for path, array in tree_flatten(found):
            bound = TOLERANCES.get(name, 1e-5) * max(1, np.abs(gradients[path]).max())
            assert np.abs(np.array(array) - gradients[path]).max() < bound, path
