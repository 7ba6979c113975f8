"""A run as somebody sees it who watches: read from a log that grows, is begun anew, or is cut short."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlx_loopai.files import is_locked, locked_folder
from mlx_loopai.runs import live
from mlx_loopai.runs.directory import RunDirectory
from mlx_loopai.runs.listener import Recorded, Silent
from mlx_loopai.runs.live import LiveRun


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path)


def step(directory: RunDirectory, number: int, at: float, **values: Any) -> None:
    line = {"event": "step", "time": at, "step": number, "loss": 1.0 / number, "learning_rate": 1e-4, **values}
    with directory.events.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")


def test_a_folder_without_a_log_is_a_run_that_has_not_begun(directory: RunDirectory) -> None:
    state = LiveRun(directory).state()
    assert (state["step"], state["total_steps"], state["stage"], state["alive"]) == (0, None, None, False)


def test_each_reading_brings_only_what_is_new(directory: RunDirectory) -> None:
    directory.record("start", total_steps=10, resumed_from=None)
    directory.record("foreseen", plan_bytes=100, scored_s=4.0, judged=True)
    step(directory, 1, 100.0)
    step(directory, 2, 102.0)
    run = LiveRun(directory)
    assert [one[:2] for one in run.state()["steps"]] == [[1, 1.0], [2, 0.5]]
    step(directory, 3, 104.0)
    state = run.state(after=2)
    assert [one[0] for one in state["steps"]] == [3]
    assert (state["left_s"], state["plan_bytes"]) == ([18.0, 18.0], 100)


def test_half_a_line_waits_for_its_end_and_a_broken_one_is_left_out(directory: RunDirectory) -> None:
    step(directory, 1, 1.0)
    run = LiveRun(directory)
    with directory.events.open("a", encoding="utf-8") as stream:
        stream.write('{"event": "step", "step": 2, ')
    assert run.state()["step"] == 1
    with directory.events.open("a", encoding="utf-8") as stream:
        stream.write('"time": 2.0}\nnot json\n[1]\n')
    assert run.state()["step"] == 2


def test_a_log_that_was_written_anew_is_read_anew(directory: RunDirectory) -> None:
    for number in range(1, 6):
        step(directory, number, float(number))
    run = LiveRun(directory)
    assert run.state()["step"] == 5
    directory.forget_after(3)
    assert run.state()["step"] == 3


def test_a_run_that_started_over_shows_only_its_new_steps(directory: RunDirectory) -> None:
    directory.record("start", total_steps=5, resumed_from=None)
    step(directory, 1, 1.0)
    step(directory, 2, 2.0)
    directory.record("start", total_steps=7, resumed_from=None)
    step(directory, 1, 9.0)
    state = LiveRun(directory).state()
    assert (state["step"], state["total_steps"]) == (1, 7)


def test_the_pause_of_a_stopped_run_does_not_slow_its_pace(directory: RunDirectory) -> None:
    directory.record("start", total_steps=12, resumed_from=None)
    for number, at in enumerate((0.0, 1.0, 2.0, 9000.0, 9001.0), 1):
        step(directory, number, at)
    assert LiveRun(directory).state()["left_s"] == pytest.approx([7.0, 7.0])


def test_stages_notices_saves_samples_and_the_verdict_are_told(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlx_loopai.runs.listener._RECORD_EVERY_S", 0.0)
    listener = Recorded(Silent(), directory)
    listener.notice("memory is short")
    listener.stage("rehearsal", 11)
    listener.advance(4)
    run = LiveRun(directory)
    assert run.state()["stage"] == {"name": "rehearsal", "total": 11, "done": 4}
    directory.record("checkpoint", step=5, path="x")
    directory.record("samples", step=5, answers=[{"prompt": "a", "base": "b", "tuned": "c"}])
    directory.record("monitor", step=5, kept=0.9)
    directory.record("verdict", verdict="pass")
    state = run.state()
    assert state["notices"] == ["memory is short"]
    assert (state["saves"], state["samples"][0]["step"], state["kept"]) == ([5], 5, [[5, 0.9]])
    assert (state["verdict"], state["stage"]) == ("pass", None)


def test_a_silent_run_is_alive_as_long_as_a_process_holds_it(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    step(directory, 1, 1.0)
    run = LiveRun(directory)
    assert not run.state()["alive"]
    with locked_folder(directory.path, ""):
        assert is_locked(directory.path)
        assert run.state()["alive"]
    monkeypatch.setattr(live.time, "time", lambda: 5.0)
    assert run.state()["alive"]


def test_a_wish_is_taken_once_and_not_by_another_run(directory: RunDirectory) -> None:
    assert directory.take_wish() is None
    directory.ask("stop")
    assert directory.take_wish() == "stop"
    assert directory.take_wish() is None
    directory.ask("save")
    with directory.locked():
        assert directory.take_wish() is None


def test_a_run_knows_whether_somebody_watches(directory: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not directory.is_watched
    directory.look()
    assert directory.is_watched
    monkeypatch.setattr("mlx_loopai.runs.directory._WATCHED_S", -1.0)
    assert not directory.is_watched


def test_sinks_hear_every_event(tmp_path: Path) -> None:
    heard: list[tuple[str, dict[str, Any]]] = []

    class Sink:
        def record(self, kind: str, values: Any) -> None:
            heard.append((kind, dict(values)))

    RunDirectory(tmp_path, sinks=(Sink(),)).record("step", step=1, loss=2.0)
    assert heard == [("step", {"step": 1, "loss": 2.0})]
