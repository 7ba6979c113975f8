"""Both paths of a training step: `auto` is one of them on this machine, but a Mac's is the product."""

from __future__ import annotations

import pytest

from mlx_loopai.config import TrainPath

PATHS: tuple[TrainPath, ...] = ("eager", "compiled")


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest) -> TrainPath:
    found: TrainPath = request.param
    return found
