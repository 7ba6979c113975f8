"""A step on judged answers follows the gradient of their loss, as autograd finds it through the whole logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optimizers
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_loopai.config import PreferenceOptions, ReplayOptions, TrainPath
from mlx_loopai.data.tokens import REHEARSAL, TokenRow
from mlx_loopai.models.lora import adapter_disabled
from mlx_loopai.models.micro_batch import JUDGED
from mlx_loopai.training.judged_step import weigh_judged
from mlx_loopai.training.objective import Objective
from mlx_loopai.training.phases import Phase
from mlx_loopai.training.step import StepSettings, TrainStep
from tests.unit.conftest import batch, row

DPO = PreferenceOptions(objective="dpo", sft_weight=0.2)
PAIRS = [
    replace(row(9, prompt=4, seed=2), reference=-30.0, rejected=replace(row(12, prompt=4, seed=3), reference=-41.0)),
    replace(row(14, prompt=5, seed=4), reference=-52.0, rejected=replace(row(8, prompt=5, seed=5), reference=-17.0)),
    replace(row(7, prompt=3, seed=6), reference=-22.0, rejected=replace(row(7, prompt=3, seed=7), reference=-23.0)),
]  # fmt: skip
VOTES = [replace(row(9, prompt=4, seed=2), reference=-30.0, good=True), replace(row(8, prompt=5, seed=5), reference=-17.0, good=False)]  # fmt: skip
LEARNT = [row(10, prompt=3, seed=8), row(6, seed=9)]


def phase_of(rows: list[TokenRow], micro: tuple[tuple[int, ...], ...], objective: Objective | None = None) -> Phase:
    return Phase("p", tuple(rows), (micro,), (8, 12, 16), 1.0, 0.0, objective or Objective())


def log_probability(model: nn.Module, one: TokenRow) -> mx.array:
    """Summed over the supervised tokens of an unpadded row, by way of all logits."""
    ids, places = mx.array(one.ids), mx.array(np.flatnonzero(one.supervised))
    logits = model(ids[None]).astype(mx.float32)[0]
    scores = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    return mx.take_along_axis(scores[places - 1], ids[places][:, None], axis=-1).sum()


def dpo(model: nn.Module) -> mx.array:
    total = mx.zeros(())
    for pair in PAIRS:
        assert pair.rejected is not None
        chosen, rejected = log_probability(model, pair), log_probability(model, pair.rejected)
        won = 0.1 * (chosen - pair.reference - rejected + pair.rejected.reference)
        total = total + mx.logaddexp(mx.zeros(()), -won) - 0.2 * chosen / int(pair.supervised.sum())
    return total / len(PAIRS)


def orpo(model: nn.Module) -> mx.array:
    total = mx.zeros(())
    for pair in PAIRS:
        assert pair.rejected is not None
        means = [log_probability(model, one) / int(one.supervised.sum()) for one in (pair, pair.rejected)]
        odds = [mean - mx.log(1 - mx.exp(mean)) for mean in means]
        total = total - means[0] + 0.1 * mx.logaddexp(mx.zeros(()), odds[1] - odds[0])
    return total / len(PAIRS)


def apo(model: nn.Module) -> mx.array:
    good, bad = (0.1 * (log_probability(model, one) - one.reference) for one in VOTES)
    own = -0.2 * log_probability(model, VOTES[0]) / int(VOTES[0].supervised.sum())
    return (1 - mx.sigmoid(good) + mx.sigmoid(bad) + own) / len(VOTES)


def stepped(
    model: nn.Module, phase: Phase, options: PreferenceOptions, path: TrainPath
) -> tuple[Any, dict[str, np.ndarray]]:
    """(the step's result, its gradient)."""
    before = dict(tree_flatten(model.trainable_parameters()))
    settings = StepSettings(clip=0.0, chunk_rows=8, path=path, preference=options)
    result = TrainStep(model, optimizers.SGD(1.0), settings)(phase.batches(0), 1.0)
    after = dict(tree_flatten(model.trainable_parameters()))
    return result, {name: np.array(before[name] - after[name]) for name in before}


@pytest.mark.parametrize(
    ("rows", "options", "loss"),
    [
        (PAIRS, DPO, dpo),
        (PAIRS, PreferenceOptions(objective="orpo"), orpo),
        (VOTES, PreferenceOptions(objective="apo"), apo),
    ],
    ids=["dpo", "orpo", "apo"],
)
def test_the_step_follows_the_gradient_of_the_loss(
    adapted: Callable[..., nn.Module],
    path: TrainPath,
    rows: list[TokenRow],
    options: PreferenceOptions,
    loss: Callable[[nn.Module], mx.array],
) -> None:
    model = adapted()
    expected, gradient = nn.value_and_grad(model, lambda: loss(model))()
    wanted = {name: np.array(array) for name, array in tree_flatten(gradient)}
    largest = max(np.abs(array).max() for array in wanted.values())
    for micro in ((tuple(range(len(rows))),), tuple((index,) for index in range(len(rows)))):
        result, found = stepped(adapted(), phase_of(rows, micro), options, path)
        assert result.loss == pytest.approx(expected.item(), rel=1e-5)
        for name, array in wanted.items():
            np.testing.assert_allclose(found[name], array, atol=1e-4 * largest, err_msg=name)


def test_ordinary_rows_keep_their_share_beside_pairs(adapted: Callable[..., nn.Module], path: TrainPath) -> None:
    rows = [*PAIRS, *LEARNT]
    pairs, _ = stepped(adapted(), phase_of(PAIRS, ((0, 1, 2),)), DPO, path)
    learnt, _ = stepped(adapted(), phase_of(LEARNT, ((0, 1),)), DPO, path)
    both, _ = stepped(adapted(), phase_of(rows, ((0, 1), (2, 3), (4,))), DPO, path)
    tokens = [pairs.supervised_tokens, learnt.supervised_tokens]
    assert both.loss == pytest.approx(np.average([pairs.loss, learnt.loss], weights=tokens), rel=1e-5)
    assert both.margin == pytest.approx(pairs.margin, rel=1e-4)
    assert learnt.margin is None


def test_rehearsal_has_its_share_of_the_loss_beside_pairs(adapted: Callable[..., nn.Module], path: TrainPath) -> None:
    rehearsed = [replace(one, category=REHEARSAL) for one in LEARNT]
    objective = Objective.of(ReplayOptions(loss_share=0.25))
    pairs, _ = stepped(adapted(), phase_of(PAIRS, ((0, 1, 2),)), DPO, path)
    learnt, _ = stepped(adapted(), phase_of(LEARNT, ((0, 1),)), DPO, path)
    both, _ = stepped(adapted(), phase_of([*PAIRS, *rehearsed], ((0, 1, 2), (3, 4)), objective), DPO, path)
    assert both.loss == pytest.approx(0.75 * pairs.loss + 0.25 * learnt.loss, rel=1e-5)


def test_the_baseline_of_kto_is_what_other_answers_gained(adapted: Callable[..., nn.Module], path: TrainPath) -> None:
    model = adapted()
    options = PreferenceOptions(objective="kto", sft_weight=0.0)
    crossed = []
    for prompt, answer in (VOTES, VOTES[::-1]):
        ids = np.concatenate([prompt.ids[~prompt.supervised], answer.ids[answer.supervised]])
        mixed = TokenRow(ids, np.arange(len(ids)) >= (~prompt.supervised).sum(), "", "domain")
        with adapter_disabled(model):
            before = log_probability(model, mixed).item()
        crossed.append(log_probability(model, mixed).item() - before)
    z = max(0.0, float(np.mean(crossed)))
    gains = [log_probability(model, one).item() - one.reference for one in VOTES]
    expected = [1 - 1 / (1 + np.exp(-0.1 * (gains[0] - z))), 1 - 1 / (1 + np.exp(-0.1 * (z - gains[1])))]
    result, _ = stepped(model, phase_of(VOTES, ((0, 1),)), options, path)
    assert result.loss == pytest.approx(np.mean(expected), rel=1e-4)


def test_a_step_without_judged_rows_is_left_as_it_is(adapted: Callable[..., nn.Module]) -> None:
    batches = [batch(LEARNT)]
    assert weigh_judged(adapted(), batches, DPO).batches == batches


def test_a_phase_puts_the_worse_answers_into_a_batch_of_their_own() -> None:
    chosen, rejected, learnt = phase_of([*PAIRS[:2], LEARNT[1]], ((1, 0), (2,))).batches(0)
    assert chosen.judged is not None
    assert rejected.judged is not None
    assert chosen.judged.dtype == JUDGED
    assert chosen.judged.tolist() == [(1, True, -52.0), (0, True, -30.0)]
    assert rejected.judged.tolist() == [(1, False, -17.0), (0, False, -41.0)]
    assert (chosen.ids.shape, rejected.ids.shape) == ((2, 16), (2, 12))
    assert learnt.judged is None
