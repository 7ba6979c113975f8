"""mlx-loopai itself, as `train` and `generate` run it; or, on a CPU, with the step that a GPU runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
import mlx.optimizers as optimizers

from mlx_loopai import __version__
from mlx_loopai.benchmark.backends import OWN_COMPILED
from mlx_loopai.benchmark.backends.mlx_memory import MlxMemory
from mlx_loopai.benchmark.cases import CaseRows, TrainCase
from mlx_loopai.benchmark.race_results import StepClock
from mlx_loopai.benchmark.steps import PlannedSteps
from mlx_loopai.config import TrainPath
from mlx_loopai.data.batches import collate
from mlx_loopai.data.tokens import TokenRow
from mlx_loopai.evaluation.perplexity import nll
from mlx_loopai.generation.engine import SamplingOptions, generate_batch
from mlx_loopai.models.adapters import load_adapter, save_adapter
from mlx_loopai.models.gradient import DEFAULT_FORM, Targets, compiled_gradient
from mlx_loopai.models.load import load_model
from mlx_loopai.training.step import StepSettings, TrainStep


class OwnSide(MlxMemory):
    """A model loaded by mlx-loopai."""

    def __init__(self, model: Path, adapter: Path | None, path: TrainPath = "auto") -> None:
        super().__init__({"mlx-loopai": __version__})
        self._path = path
        self._loaded = load_model(str(model), "fp32")
        if adapter is not None:
            self._lora = load_adapter(self._loaded.model, adapter)

    def loss(self, rows: Sequence[TokenRow]) -> float:
        if self._path == "auto":
            return nll(self._loaded.model, list(rows)).nll_per_token
        loss = compiled_gradient(self._loaded.model, DEFAULT_FORM)
        batches = [collate([row], len(row.ids)) for row in rows]
        summed = [loss(mx.array(batch.ids[:, :-1]), Targets.of(batch))[0][0].item() for batch in batches]
        return float(sum(summed)) / sum(int(batch.supervised[:, 1:].sum()) for batch in batches)

    def train(self, case: TrainCase, rows: CaseRows, clock: StepClock) -> None:
        model = self._loaded.model
        optimizer = optimizers.Adam(case.learning_rate)
        step = TrainStep(model, optimizer, StepSettings(clip=0.0, checkpointing=case.checkpointing, path=self._path))
        planned = PlannedSteps(case, rows)
        model.train()
        for number in range(planned.count):
            clock.start()
            batches, held = planned.batches(number)
            step(batches, case.learning_rate)
            clock.stop({batch.ids.shape for batch in batches}, held)
        model.eval()

    def save_adapter(self, folder: Path) -> None:
        save_adapter(folder, self._loaded.model, self._lora, self._loaded.base_hash)

    def generate(self, prompts: Sequence[Sequence[int]], max_tokens: int) -> list[list[int]]:
        options = SamplingOptions(temperature=0.0, max_tokens=max_tokens)
        return [list(answer.tokens) for answer in generate_batch(self._loaded, prompts, options)]


def open_side(model: Path, adapter: Path | None, backend: str) -> OwnSide:
    return OwnSide(model, adapter, "compiled" if backend == OWN_COMPILED else "auto")
