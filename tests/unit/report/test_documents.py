from __future__ import annotations

from typing import Any

import pytest

from mlx_loopai.errors import InputError
from mlx_loopai.report.documents import comparison_of, run_of, steps_of
from tests.unit.report.pages import arm, probe, steps


def test_a_comparison_is_read(document: dict[str, Any]) -> None:
    read = comparison_of(document, "demo.json")
    assert [one.name for one in read.arms] == ["base", "plain", "guarded"]
    plain = read.arm("plain")
    assert plain is not None
    assert (plain.right_to_wrong, plain.wrong_to_right, plain.retention) == (60, 4, 0.2)
    assert plain.retention_interval == pytest.approx((0.18, 0.21))
    assert read.arm("other") is None


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ([], "demo.json: expected a table, got list"),
        ({"n": 3, "bleu": 0.1}, "demo.json: no arms to compare (keys: n, bleu)"),
        ({"arms": {}}, "no arms"),
        ({"arms": ["plain"]}, "demo.json: arms: expected a table, got list"),
        ({"arms": {"plain": 3}}, "demo.json: arms.plain: expected a table, got int"),
        ({"arms": {"plain": {"probes": {"code": 1}}}}, "arms.plain.probes.code: expected a table, got int"),
        ({"arms": {"plain": {"curve": {}}}}, "arms.plain.curve: expected a list, got dict"),
        ({"arms": {"plain": {"examples": ["a"]}}}, "arms.plain.examples[0]: expected a table, got str"),
    ],
)
def test_a_wrong_shape_names_its_place(broken: Any, message: str) -> None:
    with pytest.raises(InputError) as failure:
        comparison_of(broken, "demo.json")
    assert message in str(failure.value)


def test_figures_that_are_missing_or_no_numbers_are_none() -> None:
    odd = {
        "retention": "high",
        "gain": float("nan"),
        "retention_interval": [1],
        "gain_interval": [None, 1],
        "purity": True,
    }
    read = comparison_of({"arms": {"plain": odd}}, "x").arms[0]
    assert (read.retention, read.gain, read.retention_interval, read.gain_interval, read.purity) == (None,) * 5
    assert (read.probes, read.curve, read.examples, read.right_to_wrong, read.worst_probe) == ((), (), (), None, None)


def test_the_worst_probe_is_measured_above_chance() -> None:
    # 0.30 of 0.35 is a smaller share above a chance of 0.25 than 0.5 of 0.9 above 0.05.
    near_chance = probe(0.35, 0.27) | {"chance": 0.25}
    one = arm(0.5, 0.2, 1.0) | {"probes": {"hard": near_chance, "easy": probe(0.9, 0.5)}}
    worst = comparison_of({"arms": {"a": one}}, "x").arms[0].worst_probe
    assert worst is not None
    assert worst.name == "hard"


def test_a_probe_that_does_not_count_is_not_the_worst() -> None:
    one = arm(0.5, 0.5, 1.0) | {"probes": {"guess": probe(0.3, 0.1) | {"counted": False}, "easy": probe(0.9, 0.5)}}
    worst = comparison_of({"arms": {"a": one}}, "x").arms[0].worst_probe
    assert worst is not None
    assert worst.name == "easy"


def test_of_a_repeated_step_the_last_counts() -> None:
    again = steps(8)[4:]
    for row in again:
        row["loss"] = 0.5
    read = steps_of([*steps(6), *again])
    assert [step.step for step in read] == list(range(1, 9))
    assert [step.loss for step in read[4:]] == [0.5] * 4


def test_a_run_that_started_over_forgets_the_abandoned_try(events: list[dict[str, Any]]) -> None:
    abandoned = [{"event": "start", "resumed_from": None, "total_steps": 999}, *steps(100)]
    read = run_of("runs/a", [*abandoned, *events])
    assert (len(read.steps), read.total_steps) == (60, 60)
    assert read.resumed_from == ()


def test_a_run_that_went_on_keeps_its_first_part_and_its_first_summary(events: list[dict[str, Any]]) -> None:
    start, *trained, done = events
    resumed = {"event": "start", "resumed_from": "checkpoints/30", "total_steps": 60}
    read = run_of("runs/a", [start, *trained[:35], resumed, *trained[30:], done, resumed, done | {"tokens_per_s": 0.0}])
    assert len(read.steps) == 60
    assert read.resumed_from == ("checkpoints/30", "checkpoints/30")
    assert read.summary is not None
    assert read.summary["tokens_per_s"] == 120.0
