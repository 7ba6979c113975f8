from __future__ import annotations

from pathlib import Path

import pytest

from mlx_loopai.config import RunConfig, load_config
from mlx_loopai.errors import InputError
from mlx_loopai.memory.machine import named_machine
from mlx_loopai.models.gradient import actual_path
from mlx_loopai.models.load import load_model
from mlx_loopai.runs.directory import RunDirectory
from mlx_loopai.training import prepare
from mlx_loopai.training.prepare import Rows, check_identity, record_start
from tests.unit.conftest import Heard


def test_a_start_is_recorded_with_versions_and_a_resume_under_others_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, heard, machine = RunDirectory(tmp_path), Heard(), named_machine("m4-16gb")
    # A run of an earlier release recorded no versions.
    run.record("start", total_steps=3)
    monkeypatch.setattr(prepare, "package_versions", lambda: {"mlx": "1", "numpy": "2"})
    record_start(run, RunConfig(), machine, heard, None, 3)
    record_start(run, RunConfig(), machine, heard, None, 3)
    assert heard.notices == []
    monkeypatch.setattr(prepare, "package_versions", lambda: {"mlx": "1.1", "numpy": "2"})
    record_start(run, RunConfig(), machine, heard, None, 3)
    differs = "its steps may differ from those before"
    assert heard.notices == [f"resumed on another machine, path or version: mlx 1 -> 1.1; {differs}"]
    last = run.read_events()[-1]
    made_with = {"mlx": "1.1", "numpy": "2", "machine": machine.name, "path": actual_path("auto")}
    assert (last["total_steps"], last["versions"]) == (3, made_with)


def test_the_path_that_auto_means_here_is_recorded_and_is_no_other_setting_on_resume(
    tmp_path: Path, tiny_model_folder: Path
) -> None:
    run, loaded, rows = RunDirectory(tmp_path), load_model(str(tiny_model_folder)), Rows({}, [])
    check_identity(run, RunConfig(), loaded, rows, resume=False)
    here = actual_path("auto")
    assert load_config(run.resolved).train.path == here
    check_identity(run, load_config(None, (f"train.path={here}",)), loaded, rows, resume=True)
    other = "compiled" if here == "eager" else "eager"
    with pytest.raises(InputError, match=f"train.path is '{other}', was '{here}'"):
        check_identity(run, load_config(None, (f"train.path={other}",)), loaded, rows, resume=True)
