from __future__ import annotations

import mlx.core as mx
import numpy as np

from mlx_loopai.models.exponentials import exp, sigmoid, silu

ENDS = np.array([-3e38, -200, -88, -20, -1, -1e-6, 0, 0.5, 20, 88, 200, 3e38], np.float32)


def test_the_sigmoid_and_its_gradient_hold_at_the_ends_of_float32() -> None:
    expected = 1 / (1 + np.exp(-np.clip(ENDS.astype(np.float64), -700, 700)))
    found, (gradient,) = mx.vjp(sigmoid, [mx.array(ENDS)], [mx.ones(ENDS.shape)])
    assert np.allclose(np.array(found[0]), expected, rtol=2e-5, atol=1e-30)
    assert np.allclose(np.array(gradient), expected * (1 - expected), rtol=1e-5, atol=1e-7)


def test_silu_is_x_times_its_sigmoid() -> None:
    x = ENDS[1:-1]
    assert np.allclose(np.array(silu(mx.array(x))), x / (1 + np.exp(-x.astype(np.float64))), rtol=2e-5, atol=1e-30)


def test_the_exponential_and_its_gradient_reach_zero_at_minus_infinity() -> None:
    x = np.array([-np.inf, -200, -50, -1, 0, 1, 40], np.float32)
    found, (gradient,) = mx.vjp(exp, [mx.array(x)], [mx.ones(x.shape)])
    expected = np.exp(x.astype(np.float64))
    assert np.allclose(np.array(found[0]), expected, rtol=1e-5, atol=1e-37)
    assert np.allclose(np.array(gradient), expected, rtol=1e-5, atol=1e-37)
