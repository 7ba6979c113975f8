"""A run's guards weigh what its forgetting budget asks for."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mlx_loopai.config import RunConfig, validate_config
from mlx_loopai.runs.directory import RunDirectory
from mlx_loopai.training.monitor import (
    MOST_STEPS_BETWEEN,
    READINGS,
    Monitor,
    Reading,
    readings_of,
    steps_between_readings,
)
from mlx_loopai.training.objective import Objective
from mlx_loopai.training.run import train
from tests.unit.conftest import Heard


def configured(recipe: str, budget: float) -> RunConfig:
    return validate_config(yaml.safe_load(recipe) | {"forgetting": {"budget": budget}}, "recipe")


def factors(folder: Path) -> list[float]:
    return [event["guards"] for event in RunDirectory(folder).read_events() if event["event"] == "monitor"]


@pytest.mark.parametrize(("budget", "heavier"), [(1e-6, True), (10.0, False)])
def test_the_guards_follow_the_readings(
    recipe: str, tmp_path: Path, heard: Heard, budget: float, heavier: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[float] = []

    def noted(monitor: Monitor) -> Reading:
        found = read(monitor)
        taken.append(found.spent)
        return found

    read = Monitor.read
    monkeypatch.setattr(Monitor, "read", noted)
    summary = train(configured(recipe, budget), tmp_path / "run", heard)
    found = factors(tmp_path / "run")
    assert len(found) >= 5
    assert (found[-1] > 2) if heavier else (found[-1] < 0.8)
    readings = [event for event in RunDirectory(tmp_path / "run").read_events() if event["event"] == "monitor"]
    assert summary.budget_spent is not None
    assert summary.budget_spent <= budget
    if heavier:
        assert summary.update_scale < 1
        assert "of its update is kept" in heard.notices[-1]
    else:
        assert (summary.update_scale, summary.budget_spent) == (1.0, readings[-1]["spent"])
        assert taken == [reading["spent"] for reading in readings]  # the last one is not taken again


def test_the_result_may_spend_a_share_of_what_the_run_may(recipe: str, tmp_path: Path, heard: Heard) -> None:
    whole = train(configured(recipe, 10.0), tmp_path / "whole", heard)
    assert whole.budget_spent is not None
    allowed = whole.budget_spent / 2
    values = yaml.safe_load(recipe) | {"forgetting": {"budget": 10.0, "final_share": allowed / 10.0}}
    summary = train(validate_config(values, "recipe"), tmp_path / "share", heard)
    assert factors(tmp_path / "share") == factors(tmp_path / "whole")  # the share is of the end, not of the way
    assert summary.budget_spent is not None
    assert summary.budget_spent <= allowed
    assert summary.update_scale < whole.update_scale == 1
    assert f"{allowed:g}" in heard.notices[-1]


def test_without_a_budget_nothing_is_read_and_strengths_stand(recipe: str, tmp_path: Path, heard: Heard) -> None:
    summary = train(configured(recipe, 0.0), tmp_path / "run", heard)
    assert factors(tmp_path / "run") == []
    assert summary.budget_spent is None


def test_a_plain_run_has_no_budget(recipe: str) -> None:
    values = yaml.safe_load(recipe) | {"replay": {"source": "none"}, "penalty": {"kind": "none"}}
    assert not validate_config(values, "recipe").has_budget
    assert validate_config(yaml.safe_load(recipe), "recipe").has_budget


@pytest.mark.parametrize(("share", "factor"), [(0.25, 3.0), (0.5, 0.01), (0.9, 100.0)])
def test_a_factor_scales_the_odds_of_rehearsal(share: float, factor: float) -> None:
    scaled = Objective(loss_share=share, rehearsal_divergence=2.0, training_divergence=0.5).scaled(factor)
    assert scaled.loss_share / (1 - scaled.loss_share) == pytest.approx(factor * share / (1 - share))
    assert scaled.rehearsal_divergence == 2.0
    assert scaled.training_divergence == pytest.approx(0.5 * factor)


def test_without_a_share_the_divergence_itself_is_scaled() -> None:
    assert Objective(rehearsal_divergence=2.0).scaled(3.0).rehearsal_divergence == pytest.approx(6.0)
    same = Objective(loss_share=0.3)
    assert same.scaled(1.0) is same


def test_readings_are_a_small_part_of_a_run() -> None:
    assert steps_between_readings(1, 5) == 1
    assert steps_between_readings(10, 64) == 64 * 3 // (4 * READINGS) < MOST_STEPS_BETWEEN
    assert steps_between_readings(32, 64) == 2 * steps_between_readings(31, 64)
    assert steps_between_readings(90_000, 100_000) == 2 * MOST_STEPS_BETWEEN


@given(st.integers(1, 5000))
def test_a_phase_is_expected_to_have_the_readings_that_it_has(steps: int) -> None:
    read = sum(step == steps or step % steps_between_readings(step, steps) == 0 for step in range(1, steps + 1))
    assert abs(readings_of(steps) - read) <= 2
    assert read >= min(steps, READINGS) - 2
