"""A step on drawn answers follows the gradient of grpo's loss, as autograd finds it through the whole logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optimizers
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_loopai.config import PreferenceOptions, TrainPath
from mlx_loopai.data.batches import collate, divided
from mlx_loopai.data.tokens import REHEARSAL
from mlx_loopai.models.micro_batch import MicroBatch
from mlx_loopai.training.drawn_step import remembering, weigh_drawn
from mlx_loopai.training.objective import Objective
from mlx_loopai.training.step import StepSettings, TrainStep
from tests.unit.conftest import row

GRPO = PreferenceOptions(objective="grpo")
ROWS = [row(9, prompt=4, seed=2), row(14, prompt=5, seed=4), row(7, prompt=3, seed=6)]
ADVANTAGES = np.array([1.2, -0.7, -0.5], np.float32)


def drawn() -> MicroBatch:
    return replace(collate(ROWS, 16), advantages=ADVANTAGES)


def grpo(model: nn.Module, before: list[mx.array] | None = None, clip: float = 0.2) -> mx.array:
    """The mean over all tokens of ROWS, by way of all logits. before: log-probabilities when they were drawn."""
    total, tokens = mx.zeros(()), 0
    for place, (one, advantage) in enumerate(zip(ROWS, ADVANTAGES.tolist(), strict=True)):
        likely = log_probabilities(model, place)
        ratio = mx.exp(likely - (mx.stop_gradient(likely) if before is None else before[place]))
        total = total - mx.minimum(ratio * advantage, mx.clip(ratio, 1 - clip, 1 + clip) * advantage).sum()
        tokens += int(one.supervised.sum())
    return total / tokens


def log_probabilities(model: nn.Module, place: int) -> mx.array:
    one = ROWS[place]
    ids, places = mx.array(one.ids), mx.array(np.flatnonzero(one.supervised))
    logits = model(ids[None]).astype(mx.float32)[0]
    scores = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    return mx.take_along_axis(scores[places - 1], ids[places][:, None], axis=-1)[:, 0]


def moved(model: nn.Module, batches: list[MicroBatch], path: TrainPath) -> dict[str, np.ndarray]:
    """By how much a step of plain descent at a rate of 1 changes the parameters, sign reversed."""
    before = dict(tree_flatten(model.trainable_parameters()))
    settings = StepSettings(clip=0.0, chunk_rows=8, path=path, preference=GRPO)
    TrainStep(model, optimizers.SGD(1.0), settings)(batches, 1.0)
    after = dict(tree_flatten(model.trainable_parameters()))
    return {name: np.array(before[name] - after[name]) for name in before}


def check(found: dict[str, np.ndarray], gradient: dict[str, mx.array]) -> None:
    wanted = {name: np.array(array) for name, array in tree_flatten(gradient)}
    largest = max(np.abs(array).max() for array in wanted.values())
    assert largest > 0
    for name, array in wanted.items():
        np.testing.assert_allclose(found[name], array, atol=1e-4 * largest, err_msg=name)


def test_the_first_update_follows_the_gradient(adapted: Callable[..., nn.Module], path: TrainPath) -> None:
    model = adapted()
    gradient = nn.value_and_grad(model, lambda: grpo(model))()[1]
    for divisor in (1, 3):
        check(moved(adapted(), divided([drawn()], divisor), path), gradient)


def test_a_second_update_is_clipped(adapted: Callable[..., nn.Module], path: TrainPath) -> None:
    """Between the two the model moves far enough for the clip to act on some tokens."""
    model = adapted()
    before = [mx.array(np.array(log_probabilities(model, place))) for place in range(len(ROWS))]
    batches = remembering(model, [drawn()], chunk_rows=4)
    moved(model, batches, path)
    gained = np.concatenate([np.array(log_probabilities(model, place) - old) for place, old in enumerate(before)])
    assert (np.abs(np.exp(gained) - 1) > 0.2).any()
    assert (np.abs(np.exp(gained) - 1) < 0.2).any()
    gradient = nn.value_and_grad(model, lambda: grpo(model, before))()[1]
    check(moved(model, batches, path), gradient)


def test_rehearsal_keeps_its_share_beside_drawn_answers(adapted: Callable[..., nn.Module]) -> None:
    rehearsed = collate([replace(row(10, prompt=3, seed=8), category=REHEARSAL)], 16)
    both = Objective(loss_share=0.4).weigh([rehearsed, drawn()])
    found = weigh_drawn(adapted(), both, 0.2)
    tokens = rehearsed.supervised.sum() + drawn().supervised.sum()
    assert found.batches[0].weights is not None
    assert found.batches[1].weights is not None
    assert found.batches[0].weights.sum() == pytest.approx(0.4 * tokens, rel=1e-5)
    own = 0.6 * tokens / drawn().supervised.sum()
    np.testing.assert_allclose(
        found.batches[1].weights, own * ADVANTAGES[:, None] * drawn().supervised, rtol=1e-5, atol=1e-7
    )
