from __future__ import annotations

import mlx.core as mx
import numpy as np

from mlx_loopai.models.exponentials import exp, power_of_two, sigmoid, silu, within_compiled_graph

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


def test_within_a_compiled_graph_powers_of_two_hold_at_the_ends_of_float32() -> None:
    x = np.concatenate([np.linspace(-126, 127.4, 4001), [-np.inf, -3e38, -200, 128, 300, np.inf, np.nan]]).astype(
        np.float32
    )

    def run(x: mx.array) -> tuple[list[mx.array], list[mx.array]]:
        with within_compiled_graph():
            return mx.vjp(power_of_two, [x], [mx.ones(x.shape)])

    (found,), (gradient,) = mx.compile(run)(mx.array(x))
    with np.errstate(over="ignore"):
        expected = np.exp2(x.astype(np.float64)).astype(np.float32)
    assert np.allclose(np.array(found), expected, rtol=3e-7, atol=0, equal_nan=True)
    finite = np.isfinite(expected)
    assert np.allclose(np.array(gradient)[finite], np.log(2) * expected[finite], rtol=1e-6, atol=0)


def test_within_a_compiled_graph_the_sigmoid_is_the_same() -> None:
    def run(x: mx.array) -> tuple[list[mx.array], list[mx.array]]:
        with within_compiled_graph():
            return mx.vjp(sigmoid, [x], [mx.ones(x.shape)])

    (found,), (gradient,) = mx.compile(run)(mx.array(ENDS))
    expected = 1 / (1 + np.exp(-np.clip(ENDS.astype(np.float64), -700, 700)))
    assert np.allclose(np.array(found), expected, rtol=2e-5, atol=1e-30)
    assert np.allclose(np.array(gradient), expected * (1 - expected), rtol=1e-5, atol=1e-7)
