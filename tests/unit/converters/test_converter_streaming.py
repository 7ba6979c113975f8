"""Memory of a conversion does not grow with the model: each runs in a process of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.convert_streaming import converted, write_source

LARGEST_TENSOR = 2 * 1024 * 4096


@pytest.mark.parametrize(
    ("n_bytes", "quantize"),
    [
        (200_000_000, ""),
        (200_000_000, "4"),
        pytest.param(2_500_000_000, "", marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
        pytest.param(2_500_000_000, "4", marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
    ],
)
def test_peak_memory_is_that_of_one_tensor(tmp_path: Path, n_bytes: int, quantize: str) -> None:
    small = converted(write_source(tmp_path / "small", 1, sparse=True), tmp_path / "out", quantize)[1]
    large = converted(write_source(tmp_path / "large", n_bytes, sparse=True), tmp_path / "out", quantize)[1]
    assert large < 1.3 * 2 * LARGEST_TENSOR + 300_000_000
    # Far below what a second copy of one shard would take.
    assert large - small < 40_000_000
