"""Benchmarks of the loss, the optimizer step and the planning of batches."""

from __future__ import annotations

import mlx.core as mx
import mlx.optimizers as optimizers
import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from mlx_loopai.benchmark.cases import CaseRows, TrainCase
from mlx_loopai.benchmark.steps import PlannedSteps
from mlx_loopai.data.batches import choose_widths, plan_steps
from mlx_loopai.models.load import load_model
from mlx_loopai.models.lora import apply_lora
from mlx_loopai.models.loss import Head, linear_cross_entropy
from mlx_loopai.training.step import StepSettings, TrainStep


@pytest.mark.parametrize("vocabulary", [4096, 32768])
def test_loss_and_its_gradient(benchmark: BenchmarkFixture, vocabulary: int) -> None:
    mx.random.seed(0)
    hidden, head = mx.random.normal((512, 256)), Head((mx.random.normal((vocabulary, 256)),))
    targets, weights = mx.random.randint(0, vocabulary, (512,)), mx.ones(512)
    gradient = mx.value_and_grad(lambda states: linear_cross_entropy(states, head, targets, weights))
    benchmark(lambda: mx.eval(gradient(hidden)))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_optimizer_step(benchmark: BenchmarkFixture, case: TrainCase, rows: CaseRows, checkpointing: bool) -> None:
    model = load_model(case.model, "fp32").model
    apply_lora(model, case.lora, seed=0)
    optimizer = optimizers.Adam(case.learning_rate)
    step = TrainStep(model, optimizer, StepSettings(clip=0.0, checkpointing=checkpointing))
    batches, _ = PlannedSteps(case, rows).batches(0)
    model.train()
    benchmark.pedantic(step, (batches, case.learning_rate), rounds=5, warmup_rounds=1)


def test_planning_an_epoch(benchmark: BenchmarkFixture) -> None:
    lengths = np.random.default_rng(0).lognormal(4, 0.7, 20_000).astype(int).clip(8, 2048).tolist()

    def plan() -> None:
        plan_steps(lengths, 16, 4096, seed=0, widths=choose_widths(lengths))

    benchmark.pedantic(plan, rounds=5)
