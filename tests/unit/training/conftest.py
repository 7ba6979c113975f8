"""A small run's configuration, and both paths of a training step: `auto` is one of them, but a Mac's is the product."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlx_loopai.config import RunConfig, TrainPath, load_config

PATHS: tuple[TrainPath, ...] = ("eager", "compiled")


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest) -> TrainPath:
    found: TrainPath = request.param
    return found


@pytest.fixture
def configure(tiny_model_folder: Path, data_files: dict[str, Path]) -> Callable[..., RunConfig]:
    """A run over one source; keyword arguments override options, dots written as two underscores."""

    def build(**options: Any) -> RunConfig:
        values = {"train__rows_per_step": 4, "train__learning_rate": 5e-3, "lora__rank": 2} | options
        overrides = tuple(f"{name.replace('__', '.')}={json.dumps(value)}" for name, value in values.items())
        sources = {"tale": {"path": str(data_files["tale"])}}
        return load_config(None, overrides, {"model": str(tiny_model_folder), "sources": sources})

    return build
