from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_loopai.config import LoraOptions
from mlx_loopai.models.backbone import hidden_states
from mlx_loopai.models.load import build_model, load_model
from mlx_loopai.models.lora import apply_lora
from mlx_loopai.models.loss import Head

IDS = mx.array(np.random.default_rng(0).integers(3, 300, (3, 17)))
SIZES = {
    "vocab_size": 300,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "head_dim": 8,
    "rope_theta": 10000.0,
    "max_position_embeddings": 512,
}


def adapted(folder: Path, dropout: float = 0.0) -> nn.Module:
    """The tiny model with an adapter that does something."""
    model = load_model(str(folder), "fp32").model
    layers = apply_lora(model, LoraOptions(rank=3, dropout=dropout), seed=1)
    for layer in layers.values():
        layer.lora_b = 0.1 * mx.random.normal(layer.lora_b.shape)
    return model


def gradients(model: nn.Module, checkpointing: bool) -> tuple[float, dict[str, np.ndarray]]:
    mx.random.seed(5)
    value, found = nn.value_and_grad(model, lambda: mx.square(hidden_states(model, IDS, checkpointing)[:, :9]).mean())()
    return value.item(), {name: np.array(array) for name, array in tree_flatten(found)}


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "llama", "mistral"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_head_over_the_hidden_states_gives_the_models_own_logits(architecture: str, tied: bool) -> None:
    mx.random.seed(2)
    config: dict[str, Any] = {"model_type": architecture, "tie_word_embeddings": tied, **SIZES}
    model = build_model(config)
    head = Head.of(model)
    for ids in (IDS, IDS[:, :1]):
        logits = head.project(head.arrays, hidden_states(model, ids), transpose=True)
        assert np.allclose(np.array(logits), np.array(model(ids)), atol=1e-5)


def test_checkpointing_gives_the_same_gradients(tiny_model_folder: Path) -> None:
    model = adapted(tiny_model_folder)
    plain_value, plain = gradients(model, checkpointing=False)
    value, found = gradients(model, checkpointing=True)
    assert value == pytest.approx(plain_value, rel=1e-6)
    assert found.keys() == plain.keys()
    assert any(array.any() for array in plain.values())
    for name, array in plain.items():
        assert np.allclose(found[name], array, rtol=1e-5, atol=1e-8), name


def test_checkpointing_drops_the_same_entries_when_it_computes_again(tiny_model_folder: Path) -> None:
    model = adapted(tiny_model_folder, dropout=0.5)
    model.train()
    plain_value, plain = gradients(model, checkpointing=False)
    value, found = gradients(model, checkpointing=True)
    assert value == pytest.approx(plain_value, rel=1e-6)
    for name, array in plain.items():
        assert np.allclose(found[name], array, rtol=1e-5, atol=1e-8), name


def test_dropout_differs_from_call_to_call_and_follows_the_seed(tiny_model_folder: Path) -> None:
    model = adapted(tiny_model_folder, dropout=0.5)
    model.train()
    mx.random.seed(3)
    first, second = (np.array(hidden_states(model, IDS)) for _ in range(2))
    mx.random.seed(3)
    again = np.array(hidden_states(model, IDS))
    assert not np.array_equal(first, second)
    assert np.array_equal(first, again)


def test_no_class_is_patched_and_it_works_twice(tiny_model_folder: Path) -> None:
    model = adapted(tiny_model_folder)
    block = type(model.layers[0])
    before = block.__call__
    first = gradients(model, checkpointing=True)
    assert block.__call__ is before
    assert "__call__" not in vars(model.layers[0])
    second = gradients(adapted(tiny_model_folder), checkpointing=True)
    assert second[0] == first[0]
    assert all(np.array_equal(second[1][name], first[1][name]) for name in first[1])
    # Generation goes on without checkpointing.
    assert np.isfinite(np.array(model(IDS))).all()


def test_padding_on_the_right_changes_nothing_before_it(tiny_model_folder: Path) -> None:
    model = adapted(tiny_model_folder)
    padded = mx.concatenate([IDS, mx.zeros((3, 5), IDS.dtype)], axis=1)
    assert np.allclose(np.array(hidden_states(model, padded))[:, :17], np.array(hidden_states(model, IDS)), atol=1e-5)
