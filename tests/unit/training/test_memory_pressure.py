"""A run on a machine whose memory fills up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlx_loopai.config import RunConfig
from mlx_loopai.errors import LoopaiError
from mlx_loopai.memory import watch as guard
from mlx_loopai.memory.watch import Pressure, Reading
from mlx_loopai.models.micro_batch import MicroBatch
from mlx_loopai.training import start as module
from mlx_loopai.training.run import train
from tests.unit.conftest import Heard


def test_a_machine_that_fills_up_gets_smaller_micro_batches_then_a_checkpoint(
    configure: Callable[..., RunConfig], tmp_path: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels = iter([Pressure.NORMAL, Pressure.WARN, Pressure.WARN, Pressure.CRITICAL])
    heights: list[int] = []
    real = module.TrainStep.__call__

    def run(self: Any, batches: list[MicroBatch], *arguments: Any, **options: Any) -> Any:
        heights.append(max(len(batch.ids) for batch in batches))
        return real(self, batches, *arguments, **options)

    monkeypatch.setattr(module.TrainStep, "__call__", run)
    monkeypatch.setattr(guard, "read_memory", lambda: Reading(0, 0, 0, next(levels, Pressure.NORMAL)))
    with pytest.raises(
        LoopaiError, match=r"memory pressure critical\); saved .*step-000004; close programs and `resume`"
    ):
        train(configure(train__epochs=4), tmp_path / "run", heard)
    short = [notice for notice in heard.notices if "memory is short" in notice]
    assert ["micro-batches get smaller" in notice for notice in short] == [False, True]
    assert heights[-1] < heights[0]
    again = train(configure(train__epochs=4), tmp_path / "run", heard, resume=True)
    assert (again.steps, Path(again.resumed_from or "").name) == (12, "step-000004")
