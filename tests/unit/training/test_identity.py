from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from mlx_loopai.config import RunConfig, load_config
from mlx_loopai.errors import InputError
from mlx_loopai.memory.machine import named_machine
from mlx_loopai.models.gradient import actual_path
from mlx_loopai.runs.context import RunContext
from mlx_loopai.runs.directory import RunDirectory
from mlx_loopai.training import identity
from mlx_loopai.training.identity import check_identity, record_start
from tests.unit.conftest import Heard


def test_a_start_is_recorded_with_versions_and_a_resume_under_others_is_said(
    tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, heard, machine = RunDirectory(tmp_path), Heard(), named_machine("m4-16gb")
    context = RunContext.open(RunConfig(model=str(tiny_model_folder)), run, heard)
    # A run of an earlier release recorded no versions.
    run.record("start", total_steps=3)
    monkeypatch.setattr(identity, "package_versions", lambda: {"mlx": "1", "numpy": "2"})
    record_start(context, machine, None, 3)
    record_start(context, machine, None, 3)
    assert heard.notices == []
    monkeypatch.setattr(identity, "package_versions", lambda: {"mlx": "1.1", "numpy": "2"})
    record_start(context, machine, None, 3)
    differs = "its steps may differ from those before"
    assert heard.notices == [f"resumed on another machine, path or version: mlx 1 -> 1.1; {differs}"]
    last = run.read_events()[-1]
    made_with = {"mlx": "1.1", "numpy": "2", "machine": machine.name, "path": actual_path("auto")}
    assert (last["total_steps"], last["versions"]) == (3, made_with)


def test_the_path_that_auto_means_here_is_recorded_and_is_no_other_setting_on_resume(
    tmp_path: Path, tiny_model_folder: Path, data_files: dict[str, Path]
) -> None:
    def context(*overrides: str) -> RunContext:
        base = {"model": str(tiny_model_folder), "sources": {"tale": {"path": str(data_files["tale"])}}}
        found = RunContext.open(load_config(None, overrides, base), RunDirectory(tmp_path), Heard())
        found.base.load()
        return found

    check_identity(context(), resume=False)
    here = actual_path("auto")
    assert load_config(RunDirectory(tmp_path).resolved).train.path == here
    check_identity(context(f"train.path={here}"), resume=True)
    other = "compiled" if here == "eager" else "eager"
    with pytest.raises(InputError, match=f"train.path is '{other}', was '{here}'"):
        check_identity(context(f"train.path={other}"), resume=True)


def test_a_run_of_a_release_with_fewer_options_goes_on_and_edited_rows_are_still_seen(
    tmp_path: Path, tiny_model_folder: Path, data_files: dict[str, Path]
) -> None:
    rows = tmp_path / "rows.jsonl"
    lines = data_files["tale"].read_text(encoding="utf-8").splitlines(keepends=True)
    rows.write_text("".join(lines), encoding="utf-8")
    base = {"model": str(tiny_model_folder), "sources": {"tale": {"path": str(rows)}}}
    run = RunDirectory(tmp_path)

    def context() -> RunContext:
        found = RunContext.open(load_config(None, (), base), run, Heard())
        found.base.load()
        return found

    check_identity(context(), resume=False)
    resolved = yaml.safe_load(run.resolved.read_text(encoding="utf-8"))
    del resolved["train"]["path"]
    run.resolved.write_text(yaml.safe_dump(resolved), encoding="utf-8")
    stored = json.loads(run.identity.read_text(encoding="utf-8"))
    run.identity.write_text(json.dumps(stored | {"config_digest": "of another release"}), encoding="utf-8")
    check_identity(context(), resume=True)
    rows.write_text("".join(lines[1:]), encoding="utf-8")
    with pytest.raises(InputError, match="rows of the data files"):
        check_identity(context(), resume=True)
