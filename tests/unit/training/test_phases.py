from __future__ import annotations

import tracemalloc
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mlx_loopai.config import RunConfig, TrainOptions
from mlx_loopai.data.chosen_rows import Column, LazyRows, Values
from mlx_loopai.data.row_identity import Digest
from mlx_loopai.data.tokens import REHEARSAL, TokenRow
from mlx_loopai.training.phases import Phase, learning_rate, plan_phases
from tests.unit.conftest import row

SOURCES = {
    "a": [row(5 + index, origin=f"a{index}") for index in range(10)],
    "b": [row(9 + 3 * index, origin=f"b{index}") for index in range(7)],
}
REHEARSAL_ROWS = [row(6 + index, origin=f"r{index}") for index in range(5)]


def config(phases: list[dict[str, Any]] | None = None, **options: Any) -> RunConfig:
    values: dict[str, Any] = {"sources": {name: {"path": f"{name}.jsonl"} for name in SOURCES}, **options}
    values["train"] = {"rows_per_step": 4} | options.get("train", {})
    return RunConfig.model_validate(values | ({"phases": phases} if phases else {}))


def seen(phase: Phase) -> Counter[str]:
    return Counter(phase.rows[index].origin for step in phase.steps for micro in step for index in micro)


def count(found: Counter[str], prefix: str) -> int:
    return sum(number for origin, number in found.items() if origin.startswith(prefix))


def test_without_phases_every_row_comes_once() -> None:
    (phase,) = plan_phases(config(), SOURCES, [], 64)
    assert set(seen(phase).values()) == {1}
    assert len(seen(phase)) == 17
    assert [sum(map(len, step)) for step in phase.steps].count(4) == 4
    assert len(phase.steps) == 5


@pytest.mark.parametrize(("epochs", "weight"), [(1, 2), (2, 1), (2, 0.5), (1, 2.5)])
def test_every_row_comes_as_often_as_its_weight_says(epochs: float, weight: float) -> None:
    options = config([{"name": "one", "mixture": {"a": weight}}], train={"epochs": epochs})
    found = seen(plan_phases(options, SOURCES, [], 64)[0])
    passes = epochs * weight
    assert count(found, "a") == round(10 * passes)
    assert set(found.values()) <= {int(passes), -int(-passes // 1)}


def test_phases_keep_their_order_and_own_settings() -> None:
    phases = plan_phases(
        config(
            [
                {"name": "one", "mixture": {"a": 1}},
                {"name": "two", "mixture": {"b": 1}, "learning_rate": 1e-3, "penalty_strength": 0.0},
            ],
            penalty={"kind": "kronecker", "strength": 3.0},
        ),
        SOURCES,
        [],
        64,
    )
    assert [phase.name for phase in phases] == ["one", "two"]
    assert [phase.learning_rate for phase in phases] == [1e-4, 1e-3]
    assert [phase.strength for phase in phases] == [3.0, 0.0]
    assert count(seen(phases[0]), "b") == count(seen(phases[1]), "a") == 0


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 40])
def test_max_steps_is_exact(steps: int) -> None:
    mixtures = [{"name": "one", "mixture": {"a": 1}}, {"name": "two", "mixture": {"a": 0.5, "b": 1}}]
    phases = plan_phases(config(mixtures, train={"max_steps": steps}), SOURCES, [], 64)
    assert sum(len(phase.steps) for phase in phases) == steps


def test_repeated_data_come_evenly() -> None:
    (phase,) = plan_phases(config(train={"max_steps": 50}), SOURCES, [], 64)
    # 50 steps of 4 rows, of 17: eleven times over and some a twelfth time; no step is short.
    assert set(seen(phase).values()) == {11, 12}
    assert {sum(map(len, step)) for step in phase.steps} == {4}


def test_a_repeat_that_draws_a_longer_row_still_fits() -> None:
    long = {"a": [row(5, origin=f"a{index}") for index in range(9)] + [row(200, origin="a9")], "b": SOURCES["b"]}
    for seed in range(6):
        options = config([{"name": "one", "mixture": {"a": 0.2}}], train={"max_steps": 20, "seed": seed})
        (phase,) = plan_phases(options, long, [], 64)
        assert len(phase.steps) == 20
        for step in range(20):
            phase.batches(step)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_rehearsal_rows_are_their_share(share: float) -> None:
    options = config(replay={"share": share, "source": "records"})
    found = seen(plan_phases(options, SOURCES, REHEARSAL_ROWS, 64)[0])
    assert count(found, "a") == 10
    assert count(found, "b") == 7
    assert count(found, "r") == round(17 * share / (1 - share))
    times = [found[one.origin] for one in REHEARSAL_ROWS]
    assert max(times) - min(times) <= 1


def test_a_phase_may_rehearse_more_or_nothing() -> None:
    mixtures = [
        {"name": "one", "mixture": {"a": 1}},
        {"name": "two", "mixture": {"a": 1}, "replay_share": 0.5},
        {"name": "three", "mixture": {"a": 1}, "replay_share": 0.0},
    ]
    options = config(mixtures, replay={"share": 0.2, "source": "records"})
    assert [count(seen(phase), "r") for phase in plan_phases(options, SOURCES, REHEARSAL_ROWS, 64)] == [2, 10, 0]


def test_widths_are_shared_and_hold_every_row() -> None:
    mixtures = [{"name": "one", "mixture": {"a": 1}}, {"name": "two", "mixture": {"b": 2}}]
    phases = plan_phases(config(mixtures), SOURCES, REHEARSAL_ROWS, 64)
    assert phases[0].widths == phases[1].widths
    found = {
        micro.ids.shape[1] for phase in phases for step in range(len(phase.steps)) for micro in phase.batches(step)
    }
    assert found <= set(phases[0].widths)
    assert 0 < phases[1].real_token_share <= 1
    assert 0 < phases[1].supervised_token_share < 1


def test_micro_batches_keep_their_token_budget() -> None:
    (phase,) = plan_phases(config(train={"rows_per_step": 8}), SOURCES, [], 32)
    for step in range(len(phase.steps)):
        for micro in phase.batches(step):
            assert micro.ids.size <= 32 or len(micro.ids) == 1


def test_the_seed_decides_the_order_and_nothing_else() -> None:
    def order(seed: int) -> list[str]:
        (phase,) = plan_phases(config(train={"seed": seed}), SOURCES, [], 64)
        return [phase.rows[index].origin for step in phase.steps for micro in step for index in micro]

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert sorted(order(1)) == sorted(order(2))


def rates(steps: int = 100, **options: Any) -> np.ndarray:
    train = TrainOptions.model_validate({"warmup": 5, **options})
    return np.array([learning_rate(train, 2.0, step, steps) for step in range(steps)])


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_the_rate_warms_up_to_its_peak(schedule: str) -> None:
    found = rates(schedule=schedule)
    assert np.allclose(found[:5], 2.0 * np.arange(1, 6) / 6)
    assert found[5] == found.max() == 2.0


def test_the_rate_falls_as_its_schedule_says() -> None:
    cosine, linear, constant = (rates(schedule=name) for name in ("cosine", "linear", "constant"))
    assert np.allclose(cosine[5:], 1 + np.cos(np.pi * np.arange(95) / 95))
    assert np.allclose(linear[5:], 2 * (1 - np.arange(95) / 95))
    assert (constant[5:] == 2).all()
    assert (cosine > 0).all()


@pytest.mark.parametrize("steps", [1, 2, 9])
def test_few_steps_still_learn(steps: int) -> None:
    found = rates(steps, warmup=10)
    assert found[0] == 2.0
    assert (found > 0).all()


def test_empty_rehearsal_adds_nothing() -> None:
    nothing: list[TokenRow] = []
    assert len(seen(plan_phases(config(replay={"share": 0.5, "source": "self"}), SOURCES, nothing, 64)[0])) == 17


@pytest.mark.parametrize("replay", [{"loss_share": 0.4}, {"objective": "kl"}, {"objective": "both"}])
def test_every_step_holds_its_share_of_rehearsal(replay: dict[str, Any]) -> None:
    rehearsal = [replace(each, category=REHEARSAL) for each in REHEARSAL_ROWS]
    options = config(replay={"share": 0.5, "source": "self", **replay})
    (phase,) = plan_phases(options, SOURCES, rehearsal, 64)
    for number, step in enumerate(phase.steps):
        marked = [phase.rows[index].category == REHEARSAL for micro in step for index in micro]
        assert abs(sum(marked) - len(marked) / 2) <= 1
        weighted = phase.batches(number)
        assert all(micro.weights is not None for micro in weighted)
        assert sum(int(micro.rehearsal.sum()) for micro in weighted if micro.rehearsal is not None) == sum(marked)


def test_the_penalty_called_kl_is_an_objective_of_training_rows() -> None:
    options = config(
        [{"name": "one", "mixture": {"a": 1}}, {"name": "two", "mixture": {"b": 1}, "penalty_strength": 0.5}],
        penalty={"kind": "kl", "strength": 3.0},
    )
    phases = plan_phases(options, SOURCES, [], 64)
    assert [phase.objective.training_divergence for phase in phases] == [3.0, 0.5]


class Known(LazyRows):
    """Rows of which only the lengths are known."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def column(self, name: Column) -> Values:
        if name == "tokens":
            return np.arange(self.count, dtype=np.int32) % 90 + 8
        return np.zeros(self.count, np.int32 if name in ("rejected", "supervised") else np.bool_)

    def digest(self, place: int, kind: Digest) -> bytes:
        raise NotImplementedError

    def row(self, place: int) -> TokenRow:
        raise NotImplementedError


def _planned_bytes(count: int, options: RunConfig) -> tuple[int, int]:
    """(what stays, the peak) of the memory in which a run over `count` rows is planned."""
    tracemalloc.start()
    phases = plan_phases(options, {"a": Known(count)}, REHEARSAL_ROWS, 512)
    found = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert phases
    return found


@pytest.mark.parametrize("replay", [{}, {"objective": "both"}])
def test_a_row_takes_a_few_bytes_of_memory(replay: dict[str, Any]) -> None:
    options = config([{"name": "one", "mixture": {"a": 1}}], replay={"share": 0.1, **replay}, train={"max_steps": 5})
    few, many = _planned_bytes(20_000, options), _planned_bytes(120_000, options)
    stays, peak = ((after - before) / 100_000 for before, after in zip(few, many, strict=True))
    assert stays < 20
    assert peak < 60, "as lists, the rows of all steps would take that much and more"
