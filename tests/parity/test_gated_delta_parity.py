"""The gated delta rule and the layer around it against transformers: values and gradients."""

from __future__ import annotations

from typing import Any

import mlx_loopai  # noqa: F401

# isort: split
import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.qwen3_5 import GatedDeltaNet, TextModelArgs

from mlx_loopai.models.gated_delta import gated_delta_rule, linear_attention

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.parity

ROWS, HEADS, KEY_HEADS, KEY_SIZE, VALUE_SIZE = 2, 4, 2, 16, 24


@pytest.mark.parametrize("tokens", [5, 64, 200, 333])
def test_the_rule(tokens: int) -> None:
    from transformers.models.qwen3_5.modeling_qwen3_5 import torch_chunk_gated_delta_rule

    generator = np.random.default_rng(tokens)
    q, k = generator.normal(size=(2, ROWS, tokens, HEADS, KEY_SIZE)).astype(np.float32)
    k /= np.linalg.norm(k, axis=-1, keepdims=True)
    v = generator.normal(size=(ROWS, tokens, HEADS, VALUE_SIZE)).astype(np.float32)
    decay = -np.exp(generator.normal(-2, 1, (ROWS, tokens, HEADS))).astype(np.float32)
    beta = generator.uniform(size=(ROWS, tokens, HEADS)).astype(np.float32)
    pull = generator.normal(size=v.shape).astype(np.float32)
    arrays = (q, k, v, decay, beta)

    theirs = [torch.tensor(each, requires_grad=True) for each in arrays]
    expected, _ = torch_chunk_gated_delta_rule(*theirs)
    (expected * torch.tensor(pull)).sum().backward()

    def loss(q: mx.array, *others: mx.array) -> tuple[mx.array, mx.array]:
        memory = mx.zeros((ROWS, HEADS, KEY_SIZE, VALUE_SIZE))
        found, _ = gated_delta_rule(KEY_SIZE**-0.5 * q, *others, memory)
        return (found * mx.array(pull)).sum(), found

    (_, found), gradients = mx.value_and_grad(loss, argnums=list(range(5)))(*map(mx.array, arrays))
    assert np.abs(np.array(found) - expected.detach().numpy()).max() < 1e-5
    for ours, their in zip(gradients, theirs, strict=True):
        wanted = their.grad.numpy()
        assert np.abs(np.array(ours) - wanted).max() < 1e-5 * max(1, np.abs(wanted).max())


def test_the_layer() -> None:
    from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5GatedDeltaNet

    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "linear_num_value_heads": HEADS,
        "linear_num_key_heads": KEY_HEADS,
        "linear_key_head_dim": KEY_SIZE,
        "linear_value_head_dim": VALUE_SIZE,
    }
    torch.manual_seed(0)
    theirs = Qwen3_5GatedDeltaNet(transformers.Qwen3_5TextConfig(**sizes), 0)
    ours = GatedDeltaNet(TextModelArgs(**sizes))
    weights = {name: mx.array(value.detach().numpy()) for name, value in theirs.named_parameters()}
    weights["conv1d.weight"] = weights["conv1d.weight"].moveaxis(2, 1)
    ours.load_weights(list(weights.items()))
    x = np.random.default_rng(0).normal(size=(ROWS, 150, 32)).astype(np.float32)

    states = torch.tensor(x, requires_grad=True)
    expected = theirs(states)
    expected.square().sum().backward()
    found, gradient = mx.value_and_grad(lambda x: mx.square(linear_attention(ours, x)).sum())(mx.array(x))
    assert found.item() == pytest.approx(expected.square().sum().item(), rel=1e-5)
    assert np.abs(np.array(gradient) - states.grad.numpy()).max() < 1e-5
