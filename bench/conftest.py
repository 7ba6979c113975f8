"""Fixtures of the benchmarks: inputs are seeded, so that two runs time the same work."""

from __future__ import annotations

from pathlib import Path

import pytest

import mlx_loopai  # noqa: F401  (loads MKL before anything imports mlx)
from mlx_loopai.benchmark.cases import CaseRows, TrainCase, equal_rows
from mlx_loopai.models.load import NANO_FOLDER

ROWS_PER_STEP = 4
LENGTH = 128


@pytest.fixture(scope="session")
def nano() -> Path:
    return NANO_FOLDER


@pytest.fixture(scope="session")
def case() -> TrainCase:
    return TrainCase(str(NANO_FOLDER), rows_per_step=ROWS_PER_STEP, steps=4)


@pytest.fixture(scope="session")
def rows(case: TrainCase) -> CaseRows:
    return equal_rows(4096, LENGTH, case.steps * ROWS_PER_STEP, seed=0)
