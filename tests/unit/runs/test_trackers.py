"""What reaches TensorBoard, Weights & Biases and Trackio: the numbers of a run, at their step."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mlx_loopai.errors import InputError
from mlx_loopai.runs.trackers import TRACKERS, Tracker, tracker


def test_numbers_are_passed_on_under_their_kind() -> None:
    logged: list[tuple[dict[str, float], int]] = []
    sink = Tracker(lambda figures, step: logged.append((figures, step)))
    sink.record("start", {"total_steps": 3})
    sink.record("step", {"step": 2, "loss": 1.5, "skipped": False, "phase": "all", "margin": None})
    sink.record("monitor", {"step": 2, "kept": 0.9, "nll": {"ko": 1.0}})
    assert logged == [({"step/loss": 1.5}, 2), ({"monitor/kept": 0.9}, 2)]


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_run_of_that_name_is_opened_and_closed(name: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    package: Any = ModuleType(name)
    package.init = lambda **given: calls.append(given)
    package.log = lambda figures, step: calls.append((figures, step))
    package.finish = lambda: calls.append("finished")
    monkeypatch.setitem(sys.modules, name, package)
    with tracker(name, tmp_path / "first") as sink:
        sink.record("step", {"step": 1, "loss": 2.0})
    assert calls == [{"project": "mlx-loopai", "name": "first"}, ({"step/loss": 2.0}, 1), "finished"]


def test_tensorboard_gets_its_files_in_the_run(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX", reason="the extra 'trackers' is not installed")
    with tracker("tensorboard", tmp_path) as sink:
        sink.record("step", {"step": 1, "loss": 2.0})
    assert list((tmp_path / "tensorboard").iterdir())


@pytest.mark.parametrize("name", TRACKERS)
def test_a_package_that_is_missing_is_named(name: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = "tensorboardX" if name == "tensorboard" else name
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=f"{package} is not installed; .*trackers"), tracker(name, tmp_path):
        pass
