"""Every guard pulls a step of the compiled path as it pulls one of the eager path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mlx.nn as nn
import mlx.optimizers as optimizers
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_loopai.config import PENALTIES, LoraOptions, RunConfig, TrainPath
from mlx_loopai.guards.guard import Material, Penalty, guard_of
from mlx_loopai.models.load import load_model
from mlx_loopai.models.lora import apply_lora
from mlx_loopai.models.micro_batch import MicroBatch
from mlx_loopai.training.objective import Objective
from mlx_loopai.training.step import StepResult, StepSettings, TrainStep
from tests.unit.conftest import Heard, batch, row
from tests.unit.training.conftest import PATHS

GENERAL = [row(9, prompt=2, seed=seed) for seed in range(3)]
STRENGTH = 0.5
LEARNT = [batch([row(12, prompt=4), row(14, prompt=5, seed=1)])]


def penalty_of(config: RunConfig, folder: Path, heard: Heard) -> Penalty | None:
    """What the guard makes of what it measures on the base in `folder`, whose adapter does nothing yet."""
    guard = guard_of(config.penalty)
    if not config.measures_importance:
        return guard.penalty(None)
    base = load_model(str(folder), "fp32")
    apply_lora(base.model, LoraOptions(rank=3, alpha=6.0), seed=1)
    material = Material(
        base=base, rows=[batch(GENERAL)], options=config.penalty, adapter=config.lora, seed=0, listener=heard
    )
    return guard.penalty(guard.measure(material))


def stepped(
    model: nn.Module, path: TrainPath, batches: list[MicroBatch], penalty: Penalty | None = None
) -> tuple[StepResult, np.ndarray]:
    """(the step's result, the adapter after it)."""
    step = TrainStep(model, optimizers.SGD(0.1), StepSettings(clip=0.0, chunk_rows=8, path=path))
    result = step(batches, 0.1, penalty, STRENGTH)
    arrays = [np.array(array).ravel() for _, array in sorted(tree_flatten(model.trainable_parameters()))]
    return result, np.concatenate(arrays)


@pytest.mark.parametrize("kind", [kind for kind in PENALTIES if kind != "none"])
def test_a_guard_pulls_both_paths_alike(
    adapted: Callable[..., nn.Module], tiny_model_folder: Path, heard: Heard, kind: str
) -> None:
    config = RunConfig.model_validate({"penalty": {"kind": kind, "strength": STRENGTH}})
    penalty = penalty_of(config, tiny_model_folder, heard)
    batches = Objective(training_divergence=STRENGTH * guard_of(config.penalty).token_divergence).weigh(LEARNT)
    (eager, moved), (compiled, also) = (stepped(adapted(), path, batches, penalty) for path in PATHS)
    assert compiled.loss == pytest.approx(eager.loss, rel=1e-5)
    assert compiled.penalty == pytest.approx(eager.penalty, rel=1e-5)
    free, start = stepped(adapted(), "eager", LEARNT)
    assert (eager.loss, eager.penalty) != (free.loss, free.penalty)
    pull = np.abs(moved - start).max()
    assert pull > 0
    np.testing.assert_allclose(also, moved, atol=1e-3 * pull)
