from __future__ import annotations

import mlx_loopai  # noqa: F401

# isort: split
import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.tensors import ROUNDING, STORAGE, TensorEntry, cast, cast_checked, is_finite, to_float32
from mlx_loopai.errors import InputError


def entry_of(values: np.ndarray, dtype: str) -> TensorEntry:
    matrix = values.reshape(-1, values.shape[-1]) if values.ndim else values.reshape(1, 1)
    return TensorEntry("t", values.shape, dtype, lambda start, stop: matrix[start:stop], origin="file: t")


def test_bf16_bits_survive_widening_and_narrowing() -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    bits = bits[(bits & 0x7FFF) <= 0x7F80]
    assert np.array_equal(cast(to_float32(bits, "BF16"), "F32", "BF16"), bits)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=50))
def test_bf16_rounds_as_mlx_does(values: list[float]) -> None:
    wide = np.array(values, np.float32)
    theirs = np.array(mx.array(wide).astype(mx.bfloat16).view(mx.uint16))
    assert np.array_equal(cast(wide, "F32", "BF16"), theirs)


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
@given(value=st.floats(width=32, min_value=-60000, max_value=60000))
def test_rounding_stays_within_the_stated_bound(dtype: str, value: float) -> None:
    relative, absolute = ROUNDING[dtype]
    wide = np.array([value], np.float32)
    error = abs(float(to_float32(cast(wide, "F32", dtype), dtype)[0]) - float(wide[0]))
    assert error <= relative * abs(value) + absolute


@given(st.lists(st.integers(1, 40), min_size=0, max_size=3), st.integers(1, 5000))
def test_spans_cover_every_row_once(shape: list[int], block_bytes: int) -> None:
    entry = entry_of(np.zeros(shape, np.float32), "F32")
    rows = [row for start, stop in entry.spans(block_bytes) for row in range(start, stop)]
    assert rows == list(range(entry.rows))
    assert entry.load().shape == tuple(shape)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(dtype: str, bad: float) -> None:
    values = np.ones((2, 3), np.float32)
    assert is_finite(cast(values, "F32", dtype), dtype)
    bits = {"F32": values, "F16": values.astype(np.float16), "BF16": cast(values, "F32", "BF16")}[dtype].copy()
    if dtype == "BF16":
        bits[1, 2] = {"nan": 0x7FC0, "inf": 0x7F80, "-inf": 0xFF80}[str(bad)]
    else:
        bits[1, 2] = bad
    with pytest.raises(InputError, match=r"NaN or infinite"):
        cast_checked(entry_of(bits, dtype), 0, 2, dtype)


def test_a_value_too_large_for_fp16_is_an_error_and_not_an_infinity() -> None:
    with pytest.raises(InputError, match="7e\\+04 does not fit into float16; use `dtype` bf16"):
        cast_checked(entry_of(np.array([[7e4]], np.float32), "F32"), 0, 1, "F16")


def test_storage_types_are_little_endian() -> None:
    assert {name: dtype.itemsize for name, dtype in STORAGE.items()} == {"F32": 4, "F16": 2, "BF16": 2}
    assert all(dtype.newbyteorder("<") == dtype for dtype in STORAGE.values())
