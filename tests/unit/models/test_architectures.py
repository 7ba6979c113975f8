"""Every supported architecture trains: the chunked, gathered, checkpointed step against the model's own logits."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_loopai.config import LoraOptions
from mlx_loopai.models.gradient import Targets, compiled_gradient, eager_gradient
from mlx_loopai.models.load import build_model
from mlx_loopai.models.lora import apply_lora
from mlx_loopai.models.loss import PLAIN
from mlx_loopai.models.micro_batch import MicroBatch

SIZES = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48, "num_attention_heads": 4}
GROUPED = {
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "head_dim": 8,
    "rope_theta": 1e4,
    "max_position_embeddings": 64,
}
NEOX = {"max_position_embeddings": 64, "layer_norm_eps": 1e-5, "rotary_emb_base": 10000, "rotary_pct": 0.25}
CONFIGS: dict[str, dict[str, Any]] = {
    name: {"model_type": name, "tie_word_embeddings": name != "mistral", **SIZES, **GROUPED}
    for name in ("qwen2", "qwen3", "llama", "mistral")
}
CONFIGS["gpt_neox"] = {"model_type": "gpt_neox", **SIZES, **NEOX}
CONFIGS["gpt_neox in turn"] = CONFIGS["gpt_neox"] | {"use_parallel_residual": False}


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
    run = build(model, chunk_rows=5, checkpointing=checkpointing, terms=PLAIN)
    for _ in range(2):
        (value, _), found = run(mx.array(some.ids[:, :-1]), Targets.of(some))
        assert float(value) == pytest.approx(expected, rel=1e-5)
        for path, array in tree_flatten(found):
            assert np.abs(np.array(array) - gradients[path]).max() < 1e-5 * max(1, np.abs(gradients[path]).max()), path
