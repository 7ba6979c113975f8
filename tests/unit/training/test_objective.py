"""Weights of a step, and a step with them, against plain numpy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optimizers
import numpy as np
import pytest

from mlx_loopai.config import ReplayOptions, TrainPath
from mlx_loopai.data.batches import divided
from mlx_loopai.data.tokens import REHEARSAL, TokenRow
from mlx_loopai.guards.base_states import with_base_states
from mlx_loopai.models import gradient
from mlx_loopai.models.gradient import Targets
from mlx_loopai.models.lora import adapter_disabled, lora_modules
from mlx_loopai.models.micro_batch import MicroBatch
from mlx_loopai.training.objective import Objective
from mlx_loopai.training.step import StepResult, StepSettings, TrainStep
from tests.unit.conftest import batch, row


def rehearsed(length: int, seed: int = 0, prompt: int = 2) -> TokenRow:
    return replace(row(length, seed, prompt), category=REHEARSAL)


TRAINING = [row(21), row(14, prompt=5)]
REHEARSED = [rehearsed(6), rehearsed(9, seed=4, prompt=6)]


def step_batches(objective: Objective) -> list[MicroBatch]:
    return objective.weigh([batch(TRAINING), batch(REHEARSED, 12)])


def run(model: nn.Module, batches: list[MicroBatch], rate: float = 0.1, **options: Any) -> StepResult:
    optimizer = optimizers.SGD(1.0)
    step = TrainStep(model, optimizer, StepSettings(clip=0.0, chunk_rows=8, **options))
    return step(batches, rate)


def log_softmax(scores: np.ndarray) -> np.ndarray:
    scores = scores - scores.max(-1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(-1, keepdims=True))


def scored(model: nn.Module, one: TokenRow) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(log-probabilities of the adapted model, of its base, targets) at a row's supervised tokens."""
    places = np.flatnonzero(one.supervised[1:])
    adapted = np.array(model(mx.array(one.ids[None, :-1])), np.float64)[0, places]
    with adapter_disabled(model):
        base = np.array(model(mx.array(one.ids[None, :-1])), np.float64)[0, places]
    return log_softmax(adapted), log_softmax(base), one.ids[places + 1]


def answer_losses(model: nn.Module, rows: list[TokenRow]) -> np.ndarray:
    parts = []
    for one in rows:
        adapted, _, targets = scored(model, one)
        parts.append(-adapted[np.arange(len(targets)), targets])
    return np.concatenate(parts)


def divergences(model: nn.Module, rows: list[TokenRow], leave_out: bool) -> np.ndarray:
    found = []
    for one in rows:
        for adapted, base, target in zip(*scored(model, one), strict=True):
            kept = np.arange(len(adapted)) != (target if leave_out else -1)
            here, there = log_softmax(adapted[kept]), log_softmax(base[kept])
            found.append((np.exp(there) * (there - here)).sum())
    return np.array(found)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_rehearsal_has_its_share_of_the_loss(adapted: Callable[..., nn.Module], share: float, path: TrainPath) -> None:
    model = adapted()
    expected = (1 - share) * answer_losses(model, TRAINING).mean() + share * answer_losses(model, REHEARSED).mean()
    batches = step_batches(Objective(loss_share=share))
    sums = [each.weights.sum() for each in batches if each.weights is not None]
    assert sums[1] / sum(sums) == pytest.approx(share, rel=1e-5)
    assert run(model, batches, path=path).loss == pytest.approx(expected, rel=1e-5)


def test_without_a_share_every_token_counts_the_same(adapted: Callable[..., nn.Module], path: TrainPath) -> None:
    model = adapted()
    expected = answer_losses(model, TRAINING + REHEARSED).mean()
    assert run(model, step_batches(Objective()), path=path).loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("rows", [TRAINING, REHEARSED])
def test_a_step_of_one_kind_is_not_thinned(
    adapted: Callable[..., nn.Module], rows: list[TokenRow], path: TrainPath
) -> None:
    plain, shared = adapted(), adapted()
    one = run(plain, [batch(rows)], path=path)
    other = run(shared, Objective(loss_share=0.3).weigh([batch(rows)]), path=path)
    assert other.loss == pytest.approx(one.loss, rel=1e-6)
    assert other.gradient_norm == pytest.approx(one.gradient_norm, rel=1e-5)


def test_divergence_on_rehearsal_alone(adapted: Callable[..., nn.Module], path: TrainPath) -> None:
    """Rehearsal rows train no answer and stay near the base; training rows train their answers."""
    model = adapted()
    tokens = sum(int(one.supervised[1:].sum()) for one in TRAINING + REHEARSED)
    answers, apart = answer_losses(model, TRAINING), 2 * divergences(model, REHEARSED, leave_out=False)
    objective = Objective(rehearses_answers=False, rehearsal_divergence=2.0)
    result = run(model, step_batches(objective), path=path)
    assert result.loss == pytest.approx(answers.mean(), rel=1e-5)
    assert result.divergence == pytest.approx(apart.sum() / tokens, rel=1e-3)


def test_where_only_the_divergence_counts_no_loss_is_computed(
    adapted: Callable[..., nn.Module], path: TrainPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    for name in ("linear_cross_entropy", "loss_and_gradient"):
        original = getattr(gradient, name)

        def noted(hidden: mx.array, *arguments: Any, original: Any = original, **named: Any) -> Any:
            asked.append(len(hidden))
            return original(hidden, *arguments, **named)

        monkeypatch.setattr(gradient, name, noted)
    batches = step_batches(Objective(rehearses_answers=False, rehearsal_divergence=2.0))
    assert [Targets.of(each).learns for each in batches] == [True, False]
    run(adapted(), batches, path=path)
    assert len(asked) == 1


def test_stored_states_of_the_base_give_the_same_step(
    adapted: Callable[..., nn.Module], tmp_path: Path, path: TrainPath
) -> None:
    one, other = adapted(), adapted()
    with adapter_disabled(one):
        known = with_base_states(one, REHEARSED, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert [each.base_states.shape for each in known if each.base_states is not None] == [(4, 32), (3, 32)]
    objective = Objective(rehearsal_divergence=2.0, loss_share=0.5)
    computed = run(one, objective.weigh([batch(TRAINING), batch(REHEARSED, 12)]), path=path)
    stored_batches = objective.weigh([batch(TRAINING), batch(known, 12)])
    assert stored_batches[1].base_states is not None
    # Divided as where memory is short: every row keeps its own states.
    stored = run(other, divided(stored_batches, 2), path=path)
    assert stored.divergence == pytest.approx(computed.divergence, rel=1e-4)
    assert stored.gradient_norm == pytest.approx(computed.gradient_norm, rel=1e-4)


def test_divergence_on_training_rows_leaves_the_target_out(adapted: Callable[..., nn.Module], path: TrainPath) -> None:
    model = adapted()
    expected = 3 * divergences(model, TRAINING, leave_out=True)
    result = run(model, Objective(training_divergence=3.0).weigh([batch(TRAINING)]), path=path)
    assert result.divergence == pytest.approx(expected.mean(), rel=1e-3)
    assert result.loss == pytest.approx(answer_losses(adapted(), TRAINING).mean(), rel=1e-5)


def test_a_step_down_the_divergence_comes_nearer_to_the_base(
    adapted: Callable[..., nn.Module], path: TrainPath
) -> None:
    model = adapted()
    objective = Objective(rehearses_answers=False, rehearsal_divergence=1.0)
    before = divergences(model, REHEARSED, leave_out=False).sum()
    run(model, objective.weigh([batch(REHEARSED)]), rate=1e-3, path=path)
    assert divergences(model, REHEARSED, leave_out=False).sum() < before


def test_at_the_base_only_the_answers_pull(adapted: Callable[..., nn.Module], path: TrainPath) -> None:
    plain, near = adapted(), adapted()
    for model in (plain, near):
        for layer in lora_modules(model).values():
            layer.lora_b = mx.zeros_like(layer.lora_b)
    one = run(plain, [batch(TRAINING)], path=path)
    other = run(near, Objective(training_divergence=5.0).weigh([batch(TRAINING)]), path=path)
    assert other.divergence == pytest.approx(0, abs=1e-5)
    assert other.gradient_norm == pytest.approx(one.gradient_norm, rel=1e-4)


def test_options_say_what_rehearsal_trains() -> None:
    def of(**options: Any) -> Objective:
        return Objective.of(ReplayOptions.model_validate({"kl_strength": 4.0, **options}))

    assert of() == Objective()
    assert of(objective="kl") == Objective(rehearses_answers=False, rehearsal_divergence=4.0)
    assert of(objective="both", loss_share=0.5) == Objective(0.5, rehearsal_divergence=4.0)
    assert not ReplayOptions().mixes_steps
    assert ReplayOptions(loss_share=0.1).mixes_steps
    assert ReplayOptions(objective="kl").mixes_steps
