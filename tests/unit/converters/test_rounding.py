"""The error bounds of quantised forms hold for the real quantisers, and are no looser than they need be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx_loopai  # noqa: F401

# isort: split
import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from converters.quantization import rounding, scheme_of
from converters.rounding import Rounding, gguf_bound

FORMS = [(word, group) for word in "234568" for group in (32, 64, 128)] + [("mxfp4", 32), ("mxfp8", 32), ("nvfp4", 16)]


def of_gguf(word: str) -> Rounding:
    kind = gguf.GGMLQuantizationType[word]
    bits = {"Q8_0": 8, "Q4_0": 4}[word]
    return Rounding(lambda rows: gguf.dequantize(gguf.quantize(rows, kind), kind), lambda rows: gguf_bound(rows, bits))


def all_roundings(dtype: str) -> dict[str, Rounding]:
    found = {f"{word}/{group}": rounding(scheme_of(word, group), dtype) for word, group in FORMS}
    return found | {"Q8_0": of_gguf("Q8_0"), "Q4_0": of_gguf("Q4_0")}


def samples() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    normal = rng.normal(0, 0.05, (64, 256)).astype(np.float32)
    outlier = normal.copy()
    outlier[:, ::50] *= 40
    return {
        "normal": normal,
        "outliers": outlier,
        "one sign": np.abs(normal) + 1,
        "other sign": -np.abs(normal) - np.float32(0.3),
        "uniform": rng.uniform(-1, 1, (64, 256)).astype(np.float32),
        "small": normal * np.float32(1e-4),
        "constant": np.full((2, 256), 0.37, np.float32),
        "zero": np.zeros((2, 256), np.float32),
    }


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
def test_no_quantiser_leaves_its_bound(dtype: str) -> None:
    for form, found in all_roundings(dtype).items():
        for kind, rows in samples().items():
            error, bound = np.abs(found.apply(rows) - rows), found.bound(rows)
            assert bound.shape == rows.shape
            assert (error <= bound).all(), (form, kind, float((error / bound).max()))


# Scales of still smaller weights are not normal numbers.
WEIGHTS = st.floats(-100, 100, width=32).map(lambda value: value if abs(value) > 1e-30 else 0.0)
ROWS = arrays(np.float32, (2, 128), elements=WEIGHTS)


@settings(max_examples=30, deadline=None)
@given(rows=ROWS)
def test_no_rows_at_all_leave_the_bounds(rows: np.ndarray) -> None:
    for form, found in all_roundings("BF16").items():
        error, bound = np.abs(found.apply(rows) - rows), found.bound(rows)
        assert (error <= bound).all(), (form, float((error - bound).max()))


def test_the_bounds_are_tight() -> None:
    """Some weight comes near its bound; 2 bits and the MX forms reach theirs only in rare groups."""
    rows = samples()["normal"]
    for form, found in all_roundings("F32").items():
        near = 0.7 if form.startswith(("2/", "mx")) else 0.92
        assert (np.abs(found.apply(rows) - rows) / found.bound(rows)).max() > near, form


def shifted(values: np.ndarray) -> np.ndarray:
    """A quantiser that rounds down: off by up to a whole step."""
    step = (values.max() - values.min()) / 15
    return np.floor(values / step) * step


def test_a_quantiser_that_rounds_down_is_seen() -> None:
    rows = samples()["uniform"][:1, :32]
    wrong: Callable[[Any], Any] = shifted
    assert (np.abs(wrong(rows) - rows) > rounding(scheme_of("4", 32), "F32").bound(rows)).any()
