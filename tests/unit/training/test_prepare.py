from __future__ import annotations

from pathlib import Path

import pytest

from mlx_loopai.memory.machine import named_machine
from mlx_loopai.runs.directory import RunDirectory
from mlx_loopai.training import prepare
from mlx_loopai.training.prepare import record_start
from tests.unit.conftest import Heard


def test_a_start_is_recorded_with_versions_and_a_resume_under_others_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, heard, machine = RunDirectory(tmp_path), Heard(), named_machine("m4-16gb")
    # A run of an earlier release recorded no versions.
    run.record("start", total_steps=3)
    monkeypatch.setattr(prepare, "package_versions", lambda: {"mlx": "1", "numpy": "2"})
    record_start(run, machine, heard, None, 3)
    record_start(run, machine, heard, None, 3)
    assert heard.notices == []
    monkeypatch.setattr(prepare, "package_versions", lambda: {"mlx": "1.1", "numpy": "2"})
    record_start(run, machine, heard, None, 3)
    assert heard.notices == ["resumed with other versions: mlx 1 -> 1.1; its steps may differ from those before"]
    last = run.read_events()[-1]
    assert (last["total_steps"], last["versions"]) == (3, {"mlx": "1.1", "numpy": "2", "machine": machine.name})
