from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optimizers
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_loopai.config import TrainOptions, TrainPath
from mlx_loopai.models.gradient import Targets
from mlx_loopai.models.micro_batch import MicroBatch
from mlx_loopai.models.pass_sizes import PAD_TARGETS_TO
from mlx_loopai.training.optimizer import build_optimizer
from mlx_loopai.training.step import StepResult, StepSettings, TrainStep
from tests.unit.conftest import batch, row
from tests.unit.training.conftest import PATHS

ROWS = [row(5), row(9, prompt=4), row(9, seed=1), row(14, prompt=11), row(21)]


def trainer(
    model: nn.Module, clip: float = 0.0, optimizer: optimizers.Optimizer | None = None, **options: Any
) -> TrainStep:
    optimizer = optimizer or optimizers.SGD(1.0)
    return TrainStep(model, optimizer, StepSettings(clip=clip, chunk_rows=8, **options))


def parameters(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: np.array(array) for name, array in tree_flatten(model.trainable_parameters())}


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray], tolerance: float = 2e-6) -> bool:
    return all(np.allclose(one[name], other[name], atol=tolerance) for name in one)


def log_softmax(model: nn.Module, ids: np.ndarray) -> np.ndarray:
    logits = np.array(model(mx.array(ids)), np.float64)
    logits -= logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_the_loss_is_the_mean_over_supervised_tokens(adapted: Callable[..., nn.Module], path: TrainPath) -> None:
    model = adapted()
    losses = []
    for one in ROWS:  # one at a time, unpadded
        scores = log_softmax(model, one.ids[None])[0]
        losses += [-scores[place - 1, one.ids[place]] for place in range(1, len(one.ids)) if one.supervised[place]]
    result = trainer(model, path=path)([batch(ROWS[:2]), batch(ROWS[2:])], 0.1)
    assert result.supervised_tokens == len(losses)
    assert result.loss == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize("cut", [[1, 4], [2, 3], [1, 1, 1, 1, 1]])
def test_micro_batches_add_up_to_one_big_batch(
    adapted: Callable[..., nn.Module], cut: list[int], path: TrainPath
) -> None:
    whole, parts = adapted(), adapted()
    edges = np.cumsum([0, *cut])
    micro = [batch(ROWS[start:end]) for start, end in pairwise(edges)]
    one = trainer(whole, clip=0.5, path=path)([batch(ROWS)], 0.1)
    many = trainer(parts, clip=0.5, path=path)(micro, 0.1)
    assert many.loss == pytest.approx(one.loss, rel=1e-5)
    assert many.gradient_norm == pytest.approx(one.gradient_norm, rel=1e-5)
    assert same(parameters(whole), parameters(parts))


@pytest.mark.parametrize("name", ["adamw", "sgd", "lion", "muon"])
def test_b_has_a_learning_rate_of_its_own(adapted: Callable[..., nn.Module], path: TrainPath, name: str) -> None:
    """LoRA+: after a step B is where a rate `b_rate` times as high takes it, and A where it was without."""
    slow, fast, own = adapted(), adapted(), adapted()
    for model, rate, b_rate in ((slow, 0.01, 1.0), (fast, 0.08, 1.0), (own, 0.01, 8.0)):
        optimizer = build_optimizer(TrainOptions(optimizer=name, weight_decay=0.0))
        trainer(model, optimizer=optimizer, path=path, b_rate=b_rate)([batch(ROWS)], rate)
    found, without, higher = parameters(own), parameters(slow), parameters(fast)
    b = {key for key in found if key.endswith("lora_b")}
    assert same(found, {key: higher[key] if key in b else without[key] for key in found}, tolerance=1e-5)
    assert not same(found, without, tolerance=1e-5)


def test_a_step_of_plain_descent_follows_the_numerical_gradient(
    adapted: Callable[..., nn.Module], path: TrainPath
) -> None:
    model = adapted()
    before = parameters(model)
    trainer(model, path=path)([batch(ROWS)], 1.0)
    gradient = {name: before[name] - array for name, array in parameters(model).items()}
    name = max(gradient, key=lambda key: np.abs(gradient[key]).max())
    place = np.unravel_index(np.abs(gradient[name]).argmax(), gradient[name].shape)
    values = []
    for nudge in (1e-2, -1e-2):
        other = adapted()
        changed = before[name].copy()
        changed[place] += nudge
        other.load_weights([(name, mx.array(changed))], strict=False)
        values.append(trainer(other, path=path)([batch(ROWS)], 0.0).loss)
    assert gradient[name][place] == pytest.approx((values[0] - values[1]) / 2e-2, rel=2e-2)


def test_clipping_bounds_the_update_and_reports_the_norm_before(
    adapted: Callable[..., nn.Module], path: TrainPath
) -> None:
    free, held = adapted(), adapted()
    start = parameters(free)
    norm = trainer(free, path=path)([batch(ROWS)], 1.0).gradient_norm
    result = trainer(held, clip=norm / 10, path=path)([batch(ROWS)], 1.0)
    assert result.gradient_norm == pytest.approx(norm, rel=1e-5)
    moved = np.sqrt(sum(np.square(array - start[name]).sum() for name, array in parameters(held).items()))
    assert moved == pytest.approx(norm / 10, rel=1e-3)


def test_the_penalty_pulls_once_a_step_however_many_micro_batches(
    adapted: Callable[..., nn.Module], path: TrainPath
) -> None:
    def penalty(model: nn.Module) -> mx.array:
        return sum(mx.square(array).sum() for _, array in tree_flatten(model.trainable_parameters()))

    one, two = adapted(), adapted()
    start = parameters(one)
    big = trainer(one, path=path)([batch(ROWS)], 0.1, penalty, 0.25)
    small = trainer(two, path=path)([batch([each]) for each in ROWS], 0.1, penalty, 0.25)
    assert big.penalty == pytest.approx(0.25 * sum(np.square(array).sum() for array in start.values()), rel=1e-5)
    assert small.penalty == big.penalty
    assert same(parameters(one), parameters(two))
    plain = adapted()
    trainer(plain, path=path)([batch(ROWS)], 0.1)
    unpenalised = parameters(plain)
    for name, array in parameters(one).items():
        assert np.allclose(array, unpenalised[name] - 0.1 * 0.25 * 2 * start[name], atol=1e-6), name


def infinite(model: nn.Module) -> mx.array:
    return mx.array(float("inf")) * model.layers[0].self_attn.q_proj.lora_a.sum()


@pytest.mark.parametrize("where", ["loss", "penalty"])
def test_a_step_that_is_not_finite_changes_nothing(
    adapted: Callable[..., nn.Module], where: str, path: TrainPath
) -> None:
    model = adapted()
    optimizer = optimizers.AdamW(1e-2)
    step = trainer(model, clip=1.0, optimizer=optimizer, path=path)
    step([batch(ROWS)], 1e-2)
    before = parameters(model)
    state = {name: np.array(array) for name, array in tree_flatten(optimizer.state)}
    norm = model.model.norm.weight
    if where == "loss":
        model.model.norm.weight = norm * float("nan")
    result = step([batch(ROWS)], 1e-2, infinite if where == "penalty" else None, 1.0)
    model.model.norm.weight = norm
    assert result.skipped
    assert step.skipped_steps == 1
    assert all(np.array_equal(before[name], array) for name, array in parameters(model).items())
    assert all(np.array_equal(state[name], np.array(array)) for name, array in tree_flatten(optimizer.state))
    good = step([batch(ROWS)], 1e-2)
    assert not good.skipped
    assert step.skipped_steps == 1


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_compiled_step_is_the_same(adapted: Callable[..., nn.Module], dropout: float, checkpointing: bool) -> None:
    found = []
    for path in PATHS:
        model = adapted(dropout)
        model.train()
        mx.random.seed(3)
        step = trainer(model, clip=1.0, optimizer=optimizers.AdamW(1e-3), path=path, checkpointing=checkpointing)
        results: list[StepResult] = [step([batch(ROWS[:2], 9), batch(ROWS[2:], 21)], 1e-3) for _ in range(3)]
        found.append((results, parameters(model)))
    for plain, fast in zip(found[0][0], found[1][0], strict=True):
        assert fast.loss == pytest.approx(plain.loss, rel=1e-5)
        assert fast.gradient_norm == pytest.approx(plain.gradient_norm, rel=1e-4)
    assert same(found[0][1], found[1][1], 1e-4)
    assert len({result.loss for result in found[1][0]}) == 3


def test_padding_is_never_a_target() -> None:
    both = batch([row(4, prompt=1), row(9, prompt=6)], width=16)
    targets = Targets.of(both)
    assert targets.weights.size % PAD_TARGETS_TO == 0
    real = int(np.array(targets.weights).sum())
    assert real == 3 + 3
    rows, columns, tokens = (np.array(values)[:real] for values in (targets.rows, targets.columns, targets.tokens))
    for at, place, token in zip(rows, columns, tokens, strict=True):
        assert both.supervised[at, place + 1]
        assert token == both.ids[at, place + 1]
    assert not np.array(targets.weights)[real:].any()


def test_wider_padding_changes_nothing(adapted: Callable[..., nn.Module], path: TrainPath) -> None:
    narrow, wide = adapted(), adapted()
    one = trainer(narrow, path=path)([batch(ROWS)], 0.1)
    other = trainer(wide, path=path)([batch(ROWS, 40)], 0.1)
    assert other.loss == pytest.approx(one.loss, rel=1e-5)
    assert same(parameters(narrow), parameters(wide))


def test_what_stands_in_the_padding_does_not_matter(adapted: Callable[..., nn.Module], path: TrainPath) -> None:
    clean, dirty = adapted(), adapted()
    padded = batch(ROWS[:2], 30)
    ids = padded.ids.copy()
    ids[0, 5:], ids[1, 9:] = 77, 88
    one = trainer(clean, path=path)([padded], 0.1)
    other = trainer(dirty, path=path)([MicroBatch(ids, padded.supervised)], 0.1)
    assert other.loss == pytest.approx(one.loss, rel=1e-6)
    assert same(parameters(clean), parameters(dirty))
