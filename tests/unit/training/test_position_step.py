"""A step on positions follows the gradient of tlpo's loss and KL, as autograd finds it through the whole logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_loopai.config import PreferenceOptions, ReplayOptions, TrainPath
from mlx_loopai.data.tokens import REHEARSAL, TokenRow
from mlx_loopai.models.gradient import Targets
from mlx_loopai.models.lora import adapter_disabled
from mlx_loopai.models.micro_batch import CANDIDATES
from mlx_loopai.training.judged_step import weigh_judged
from mlx_loopai.training.objective import Objective
from mlx_loopai.training.position_reference import with_position_states
from tests.unit.conftest import Heard, row
from tests.unit.training.test_judged_step import LEARNT, phase_of, stepped

TLPO = PreferenceOptions(objective="tlpo")


def position(length: int, seed: int, tokens: dict[int, tuple[float, float]]) -> TokenRow:
    """A row whose last token is one of `tokens`: token -> (score, log-probability before the run)."""
    candidates = np.zeros(len(tokens), CANDIDATES)
    candidates["token"] = list(tokens)
    candidates["score"], candidates["reference"] = np.array(list(tokens.values())).T
    found = row(length, seed, prompt=length - 1)
    found.ids[-1] = next(iter(tokens))
    return replace(found, candidates=candidates, begun=2)


POSITIONS = [
    position(9, 2, {5: (1, -5.6), 17: (0, -5.5), 40: (0, -5.9), 51: (1, -6.2)}),
    position(12, 3, {8: (1, -6.5), 6: (0, -5.0)}),
    position(7, 4, {11: (1, -5.8), 12: (0.5, -5.7), 13: (0, -5.6)}),
]


def tlpo(model: nn.Module, clip: float = 0.2, kl_weight: float = 0.04) -> tuple[mx.array, mx.array]:
    """(loss, KL) of POSITIONS, each a mean over the positions, by way of all logits."""
    total, apart = mx.zeros(()), mx.zeros(())
    for one in POSITIONS:
        assert one.candidates is not None
        ids = mx.array(one.ids[None, :-1])
        with adapter_disabled(model):
            base = mx.stop_gradient(_log_softmax(model(ids)[0, -1]))
        likely = _log_softmax(model(ids)[0, -1])
        before, score = (mx.array(one.candidates[name].astype(np.float32)) for name in ("reference", "score"))
        shares = mx.softmax(before)
        raw = shares * (score - (shares * score).sum())
        advantage = raw / mx.abs(raw).sum()
        ratio = mx.exp(likely[mx.array(one.candidates["token"])] - before)
        gained = mx.minimum(ratio * advantage, mx.clip(ratio, 1 - clip, 1 + clip) * advantage)
        total = total - gained.sum()
        apart = apart + kl_weight * (mx.exp(base) * (base - likely)).sum()
    return total / len(POSITIONS), apart / len(POSITIONS)


def _log_softmax(logits: mx.array) -> mx.array:
    logits = logits.astype(mx.float32)
    return logits - mx.logsumexp(logits)


@pytest.mark.parametrize("options", [TLPO, PreferenceOptions(objective="tlpo", ratio_clip=0.9, kl_weight=2.0)])
def test_the_step_follows_the_gradient_of_the_loss(
    adapted: Callable[..., nn.Module], path: TrainPath, options: PreferenceOptions
) -> None:
    model = adapted()
    given = options.ratio_clip, options.kl_weight
    expected, gradient = nn.value_and_grad(model, lambda: sum(tlpo(model, *given)))()
    wanted = {name: np.array(array) for name, array in tree_flatten(gradient)}
    largest = max(np.abs(array).max() for array in wanted.values())
    for micro in ((tuple(range(len(POSITIONS))),), tuple((index,) for index in range(len(POSITIONS)))):
        result, found = stepped(adapted(), phase_of(POSITIONS, micro), options, path)
        assert result.loss + result.divergence == pytest.approx(expected.item(), rel=1e-5)
        assert result.divergence == pytest.approx(tlpo(adapted(), *given)[1].item(), rel=1e-4)
        for name, array in wanted.items():
            np.testing.assert_allclose(found[name], array, atol=1e-4 * largest, err_msg=name)


def test_known_states_of_the_base_give_the_same_step(
    adapted: Callable[..., nn.Module], path: TrainPath, tmp_path: Path, heard: Heard
) -> None:
    options = PreferenceOptions(objective="tlpo", kl_weight=2.0)
    known = with_position_states(adapted(), POSITIONS, tmp_path, heard)
    (batch,) = phase_of(known, ((0, 1, 2),)).batches(0)
    assert Targets.of(weigh_judged(adapted(), [batch], options).batches[0]).base is not None
    (wanted, gradient), (result, found) = (
        stepped(adapted(), phase_of(rows, ((0, 1, 2),)), options, path) for rows in (POSITIONS, known)
    )
    assert result.divergence == pytest.approx(wanted.divergence, rel=1e-5)
    for name, array in gradient.items():
        np.testing.assert_allclose(found[name], array, atol=1e-5 * np.abs(array).max(), err_msg=name)


def test_a_step_without_kl_computes_no_base(adapted: Callable[..., nn.Module]) -> None:
    options = PreferenceOptions(objective="tlpo", kl_weight=0.0)
    (batch,) = weigh_judged(adapted(), phase_of(POSITIONS, ((0, 1, 2),)).batches(0), options).batches
    assert batch.divergence is None
    assert Targets.of(batch).divergence is None


def test_ordinary_rows_keep_their_share_beside_positions(adapted: Callable[..., nn.Module], path: TrainPath) -> None:
    rows = [*POSITIONS, *LEARNT]
    alone, _ = stepped(adapted(), phase_of(POSITIONS, ((0, 1, 2),)), TLPO, path)
    learnt, _ = stepped(adapted(), phase_of(LEARNT, ((0, 1),)), TLPO, path)
    for micro in (((0, 1, 2), (3, 4)), ((0, 3), (1, 4), (2,))):
        both, _ = stepped(adapted(), phase_of(rows, micro), TLPO, path)
        tokens = [alone.supervised_tokens, learnt.supervised_tokens]
        assert alone.supervised_tokens == len(POSITIONS)
        assert both.loss == pytest.approx(np.average([alone.loss, learnt.loss], weights=tokens), rel=1e-5)
        assert both.margin == pytest.approx(alone.margin, rel=1e-4)
        assert both.divergence == pytest.approx(alone.divergence * len(POSITIONS) / sum(tokens), rel=1e-4)


def test_rehearsal_has_its_share_of_the_loss(adapted: Callable[..., nn.Module], path: TrainPath) -> None:
    rehearsed = [replace(one, category=REHEARSAL) for one in LEARNT]
    objective = Objective.of(ReplayOptions(source="records", share=0.4, loss_share=0.25))
    alone, _ = stepped(adapted(), phase_of(POSITIONS, ((0, 1, 2),)), TLPO, path)
    other, _ = stepped(adapted(), phase_of(LEARNT, ((0, 1),)), TLPO, path)
    both, _ = stepped(adapted(), phase_of([*POSITIONS, *rehearsed], ((0, 1, 2), (3, 4)), objective), TLPO, path)
    assert both.loss == pytest.approx(0.75 * alone.loss + 0.25 * other.loss, rel=1e-5)


def test_a_position_is_targets_of_one_state(adapted: Callable[..., nn.Module]) -> None:
    rows = [*POSITIONS[:2], LEARNT[1]]
    (batch,) = phase_of(rows, ((0, 1, 2),)).batches(0)
    found = Targets.of(weigh_judged(adapted(), [batch], TLPO).batches[0])
    places = list(zip(found.rows.tolist(), found.columns.tolist(), found.tokens.tolist(), strict=True))
    used = 4 + 2 + int(LEARNT[1].supervised.sum())
    assert {place for place in places[:used] if place[0] == 0} == {(0, 7, token) for token in (5, 17, 40, 51)}
    assert {place for place in places[:used] if place[0] == 1} == {(1, 10, token) for token in (8, 6)}
    assert found.divergence is not None
    apart = np.array(found.divergence)
    assert np.flatnonzero(apart).tolist() == [0, 1]  # once a position, and first
