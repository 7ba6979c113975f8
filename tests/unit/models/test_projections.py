"""Adapters computed jointly are the layers one by one: outputs, gradients, and when they are not joint."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_loopai.models.lora import DoRALinear, LoRALinear, projected

SIZES, RANKS = (64, 32, 96), (3, 5, 2)


def layers(quantised: bool = False, bias: bool = False, kind: Any = LoRALinear) -> list[LoRALinear]:
    mx.random.seed(7)
    found = []
    for size, rank in zip(SIZES, RANKS, strict=True):
        linear = nn.Linear(64, size, bias=bias)
        adapter = kind(nn.QuantizedLinear.from_linear(linear, 32, 8) if quantised else linear, rank, 1.5 + rank)
        adapter.lora_b = mx.random.normal(adapter.lora_b.shape)
        adapter.linear.freeze()
        found.append(adapter)
    return found


def gradients(some: list[LoRALinear], joint: bool, dtype: mx.Dtype = mx.float32) -> tuple[list[Any], list[np.ndarray]]:
    """Outputs, and gradients at x and at all factors for fixed cotangents."""
    generator = np.random.default_rng(1)
    x = mx.array(generator.normal(size=(2, 9, 64))).astype(dtype)
    pulls = [mx.array(generator.normal(size=(2, 9, layer.lora_b.shape[1]))).astype(dtype) for layer in some]
    for layer in some:
        layer.joint = joint

    def run(x: mx.array, *factors: mx.array) -> list[mx.array]:
        for layer, a, b in zip(some, factors[::2], factors[1::2], strict=True):
            layer.lora_a, layer.lora_b = a, b
        return projected(some, x)

    factors = [factor for layer in some for factor in (layer.lora_a, layer.lora_b)]
    outputs, found = mx.vjp(run, [x, *factors], pulls)
    for layer, a, b in zip(some, factors[::2], factors[1::2], strict=True):
        layer.lora_a, layer.lora_b = a, b
    return [np.array(each.astype(mx.float32)) for each in outputs], [
        np.array(each.astype(mx.float32)) for each in found
    ]


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("quantised", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_outputs_and_gradients_are_the_same(count: int, quantised: bool, bias: bool) -> None:
    some = layers(quantised, bias)[:count]
    expected, found = gradients(some, joint=False), gradients(some, joint=True)
    for wanted, given in zip(expected[0] + expected[1], found[0] + found[1], strict=True):
        assert given.shape == wanted.shape
        assert np.allclose(given, wanted, atol=1e-5 * np.abs(wanted).max())


def test_in_half_precision_the_factors_gradients_stay_float32() -> None:
    some = layers()
    for layer in some:
        layer.linear.set_dtype(mx.bfloat16)
    expected, found = gradients(some, False, mx.bfloat16), gradients(some, True, mx.bfloat16)
    for wanted, given in zip(expected[1], found[1], strict=True):
        assert np.allclose(given, wanted, atol=0.05 * np.abs(wanted).max())


@pytest.mark.parametrize("change", ["dora", "dropout", "disabled", "observed"])
def test_what_is_more_than_a_low_rank_sum_is_not_joint(change: str) -> None:
    some = layers(kind=DoRALinear if change == "dora" else LoRALinear)
    for layer in some:
        layer.joint = True
        layer.train()
    if change == "dropout":
        some[1].dropout = 0.5
    if change == "disabled":
        some[1].enabled = False
    if change == "observed":
        some[1].observer = lambda x, y: 2 * y
    assert not some[1].is_joint
    x = mx.random.normal((2, 9, 64))
    mx.random.seed(3)
    found = projected(some, x)
    mx.random.seed(3)
    expected = [layer(x) for layer in some]
    for given, wanted in zip(found, expected, strict=True):
        assert np.allclose(np.array(given), np.array(wanted), atol=1e-5)
