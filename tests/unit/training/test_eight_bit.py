"""Moments of 8 bits against dynamic tree quantisation in plain NumPy, and against Adam with moments of 32."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_loopai.config import TrainOptions
from mlx_loopai.training.eight_bit import BLOCK, MOMENT, ROOT, Codebook, quantized, restored
from mlx_loopai.training.optimizer import build_optimizer


def cells(decades: int) -> tuple[np.ndarray, np.ndarray]:
    """(lower edges, centres), ascending: decade e below 1 has 2^(decades - 1 - e) cells of equal width."""
    lower, centre = [], []
    for e in reversed(range(decades)):
        count = 2 ** (decades - 1 - e)
        width = 0.9 * 10.0**-e / count
        for cell in range(count):
            lower.append(0.1 * 10.0**-e + cell * width)
            centre.append(lower[-1] + width / 2)
    return np.array(lower), np.array(centre)


def reference(block: np.ndarray, decades: int, signed: bool) -> np.ndarray:
    """What a block of 256 is after it was quantised and restored."""
    scale = block[np.argmax(np.abs(block))]
    if scale == 0:
        return np.zeros_like(block)
    share = block / scale
    lower, centre = cells(decades)
    place = np.clip(np.searchsorted(lower, np.abs(share), side="right") - 1, 0, None)
    found = np.sign(share) * centre[place] if signed else centre[place]
    if signed:
        found[np.abs(share) < 10.0**-decades] = 0
    found[share >= 1] = 1
    return found * scale


@pytest.mark.parametrize(("book", "decades", "signed"), [(MOMENT, 7, True), (ROOT, 8, False)])
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1 << 16), spread=st.floats(0, 4))
def test_a_block_is_what_the_reference_makes_of_it(
    book: Codebook, decades: int, signed: bool, seed: int, spread: float
) -> None:
    generator = np.random.default_rng(seed)
    block = generator.normal(size=BLOCK) * np.exp(spread * generator.normal(size=BLOCK))
    block = (block if signed else np.abs(block)).astype(np.float32)
    codes, scales = quantized(mx.array(block), book)
    found, wanted = np.array(restored(codes, scales, book, block.shape)), reference(block, decades, signed)
    # A value within float32's rounding of an edge may fall in either cell.
    lower, _ = cells(decades)
    share = np.abs(block / block[np.argmax(np.abs(block))]).astype(np.float64)
    near = np.abs(share[:, None] / lower - 1).min(axis=1) < 1e-5
    np.testing.assert_allclose(found[~near], wanted[~near], rtol=1e-5)


@pytest.mark.parametrize("book", [MOMENT, ROOT])
def test_the_codes_are_256_different_values(book: Codebook) -> None:
    values = np.array(book.values)
    assert len(np.unique(values)) == 256
    assert np.array_equal(np.array(book.codes(mx.array(values))), np.arange(256, dtype=np.uint8))


def test_the_largest_entry_of_a_block_is_exact_whatever_its_sign() -> None:
    array = mx.array(np.random.default_rng(0).normal(size=(3, 100)).astype(np.float32))
    codes, scales = quantized(array, MOMENT)
    assert codes.shape == (2, BLOCK)
    found = np.array(restored(codes, scales, MOMENT, array.shape))
    flat, before = found.reshape(-1)[:BLOCK], np.array(array).reshape(-1)[:BLOCK]
    largest = np.argmax(np.abs(before))
    assert flat[largest] == before[largest]
    assert np.abs(found - np.array(array)).max() < 0.03


def test_an_entry_whose_second_moment_is_lost_beside_its_neighbours_does_not_explode() -> None:
    """Gradients of one block over ten decades. Adam goes 3.2, 4.2 and 5 times the rate in its first steps; the cells of
    the lowest decade are as wide as 5 of their values. Divided by a root of 0 an entry would go millions of times as far.
    """
    gradient = mx.array(np.logspace(-10, 0, BLOCK).astype(np.float32))
    optimizer = build_optimizer(TrainOptions(optimizer="adam", moments="8-bit", learning_rate=1.0))
    at = {"x": mx.zeros(BLOCK)}
    for most in (3.2, 4.3, 5.0):
        before, at = at, optimizer.apply_gradients({"x": gradient}, at)
        assert np.abs(np.array(at["x"] - before["x"])).max() < 5 * most


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_it_goes_where_adam_goes(name: str) -> None:
    """A noisy quadratic bowl: both end at the same place, and their ways part by little."""
    goal = np.random.default_rng(0).normal(size=(40, 30)).astype(np.float32)
    ends = {}
    for moments in ("fp32", "8-bit"):
        options = {"optimizer": name, "moments": moments, "learning_rate": 0.02, "bias_correction": True}
        optimizer, noise = build_optimizer(TrainOptions.model_validate(options)), np.random.default_rng(1)
        at = {"x": mx.zeros(goal.shape)}
        for _ in range(150):
            gradient = at["x"] - mx.array(goal + 0.1 * noise.normal(size=goal.shape).astype(np.float32))
            at = optimizer.apply_gradients({"x": gradient}, at)
        ends[moments] = np.array(at["x"])
    assert np.abs(ends["8-bit"] - goal).mean() < 1.1 * np.abs(ends["fp32"] - goal).mean()
    assert np.abs(ends["8-bit"] - ends["fp32"]).mean() < 0.02


def test_the_state_is_a_quarter() -> None:
    sizes = {}
    for moments in ("fp32", "8-bit"):
        optimizer = build_optimizer(TrainOptions(moments=moments))
        optimizer.init({"x": mx.zeros((512, 512))})
        sizes[moments] = sum(array.nbytes for array in optimizer.state["x"].values())
    assert sizes["fp32"] / sizes["8-bit"] == pytest.approx(4, rel=0.02)


def test_other_optimizers_refuse_it_by_name() -> None:
    from mlx_loopai.config import load_config
    from mlx_loopai.errors import InputError

    with pytest.raises(InputError, match="train.moments 8-bit is for adam and adamw, not for lion"):
        load_config(None, {"train.moments": "8-bit", "train.optimizer": "lion"})
