from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mlx_loopai.errors import InputError
from mlx_loopai.runs.directory import RunDirectory
from tests.unit.conftest import ROOT


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "run")


def test_events_are_read_in_order(run: RunDirectory) -> None:
    with run.locked():
        for step in range(3):
            run.record("step", step=step, phase="대화\u2028")
    assert [event["step"] for event in run.read_events()] == [0, 1, 2]
    assert {event["phase"] for event in run.read_events()} == {"대화\u2028"}
    assert all(event["time"] > 0 for event in run.read_events())


def test_no_events_yet(run: RunDirectory) -> None:
    assert run.read_events() == []


@pytest.mark.parametrize("keep_bytes", [0, 1, 5, 29, 30, 31, 32, 33, 34, 35])
def test_a_line_that_a_crash_cut_short_costs_that_line_alone(run: RunDirectory, keep_bytes: int) -> None:
    with run.locked():
        run.record("step", step=1)
        whole = run.events.read_bytes()
        line = '{"event": "step", "phase": "대화가나다라"'.encode()
        run.events.write_bytes(whole + line[:keep_bytes])
    assert [event["step"] for event in run.read_events()] == [1]
    with run.locked():
        run.record("start", step=2)
        run.record("step", step=3)
    assert [event["step"] for event in run.read_events()] == [1, 2, 3]


def test_a_whole_last_line_without_its_newline_is_kept(run: RunDirectory) -> None:
    with run.locked():
        run.record("step", step=1)
        run.events.write_bytes(run.events.read_bytes().rstrip(b"\n"))
    with run.locked():
        run.record("step", step=2)
    assert [event["step"] for event in run.read_events()] == [1, 2]


def test_a_folder_is_written_by_one_process(run: RunDirectory) -> None:
    code = (
        "import sys; from pathlib import Path; from mlx_loopai.runs.directory import RunDirectory\n"
        "with RunDirectory(Path(sys.argv[1])).locked(): pass\n"
    )
    command = [sys.executable, "-c", code, str(run.path)]
    with run.locked():
        refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        with pytest.raises(InputError, match="another process"), run.locked():
            pass
    assert "another process is writing this run" in refused.stderr
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def test_the_lock_goes_with_an_error(run: RunDirectory) -> None:
    with pytest.raises(KeyError), run.locked():
        raise KeyError
    with run.locked():
        pass


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    for path in (tmp_path / "run", tmp_path / "run" / "below"):
        with pytest.raises(InputError, match="`out`"), RunDirectory(path).locked():
            pass
