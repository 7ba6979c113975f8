from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from mlx_loopai.config import load_config
from mlx_loopai.errors import InputError
from mlx_loopai.memory.machine import named_machine
from mlx_loopai.models.gradient import actual_path
from mlx_loopai.runs.context import RunContext
from mlx_loopai.runs.directory import RunDirectory
from mlx_loopai.training.checkpoint import ARRAYS_FILE, STATE_FILE
from mlx_loopai.training.identity import Identity, check_identity, record_start, versions
from tests.unit.conftest import Heard


def identity(*overrides: str, base_hash: str = "b" * 64, rows_digest: str = "rows") -> Identity:
    return Identity(load_config(None, overrides), base_hash, rows_digest)


def test_a_start_is_recorded_with_versions_and_a_resume_under_others_is_said(tmp_path: Path) -> None:
    run, heard = RunDirectory(tmp_path), Heard()
    # A run of an earlier release recorded no versions.
    run.record("start", total_steps=3)
    record_start(run, {"mlx": "1", "numpy": "2"}, None, 3, heard)
    record_start(run, {"mlx": "1", "numpy": "2"}, None, 3, heard)
    assert heard.notices == []
    record_start(run, {"mlx": "1.1", "numpy": "2"}, None, 3, heard)
    differs = "its steps may differ from those before"
    assert heard.notices == [f"resumed on another machine, path or version: mlx 1 -> 1.1; {differs}"]
    last = run.read_events()[-1]
    assert (last["total_steps"], last["versions"]) == (3, {"mlx": "1.1", "numpy": "2"})


def test_the_versions_of_a_run_name_packages_machine_and_path() -> None:
    found = versions(named_machine("m4-16gb"), "auto")
    assert {"mlx", "numpy"} <= set(found)
    assert (found["machine"], found["path"]) == (named_machine("m4-16gb").name, actual_path("auto"))


def test_the_path_that_auto_means_here_is_recorded_and_is_no_other_setting_on_resume(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    check_identity(run, identity(), resume=False)
    here = actual_path("auto")
    assert load_config(run.resolved).train.path == here
    check_identity(run, identity(f"train.path={here}"), resume=True)
    other = "compiled" if here == "eager" else "eager"
    with pytest.raises(InputError, match=f"train.path is '{other}', was '{here}'"):
        check_identity(run, identity(f"train.path={other}"), resume=True)


def test_a_run_of_a_release_with_fewer_options_goes_on_and_edited_rows_are_still_seen(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    check_identity(run, identity(), resume=False)
    resolved = yaml.safe_load(run.resolved.read_text(encoding="utf-8"))
    del resolved["train"]["path"]
    run.resolved.write_text(yaml.safe_dump(resolved), encoding="utf-8")
    stored = json.loads(run.identity.read_text(encoding="utf-8"))
    run.identity.write_text(json.dumps(stored | {"config_digest": "of another release"}), encoding="utf-8")
    check_identity(run, identity(), resume=True)
    with pytest.raises(InputError, match="rows of the data files"):
        check_identity(run, identity(rows_digest="others"), resume=True)


def test_all_differences_are_listed(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    check_identity(run, identity(), resume=False)
    with pytest.raises(InputError, match="the base is another one .*; lora.rank is 3, was ") as caught:
        check_identity(run, identity("lora.rank=3", base_hash="c" * 64), resume=True)
    assert "\n" not in str(caught.value)


def test_edited_rows_are_another_identity(tmp_path: Path, tiny_model_folder: Path, data_files: dict[str, Path]) -> None:
    rows = tmp_path / "rows.jsonl"
    lines = data_files["tale"].read_text(encoding="utf-8").splitlines(keepends=True)

    def found(kept: list[str]) -> Identity:
        rows.write_text("".join(kept), encoding="utf-8")
        base = {"model": str(tiny_model_folder), "sources": {"tale": {"path": str(rows)}}}
        context = RunContext.open(load_config(None, (), base), RunDirectory(tmp_path), Heard())
        context.base.load()
        return Identity.of(context)

    assert found(lines) == found(lines)
    assert found(lines).rows_digest != found(lines[1:]).rows_digest


@pytest.mark.parametrize("content", ["", "[]", "{}", "{" * 100_000, '{"base_hash": "b"}'])
def test_a_damaged_identity_is_named(tmp_path: Path, content: str) -> None:
    run = RunDirectory(tmp_path)
    check_identity(run, identity(), resume=False)
    run.identity.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"run\.json: is damaged"):
        check_identity(run, identity(), resume=True)


def test_checkpoints_of_which_nothing_says_what_they_are_are_not_resumed(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    check_identity(run, identity(), resume=False)
    checkpoint = run.checkpoints / "step-000010"
    checkpoint.mkdir(parents=True)
    for name in (STATE_FILE, ARRAYS_FILE):
        (checkpoint / name).touch()
    run.record("step", step=3)
    run.identity.unlink()
    with pytest.raises(InputError, match=r"run\.json: is missing"):
        check_identity(run, identity("train.learning_rate=1e-3"), resume=True)
    assert run.read_events()


def test_settings_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    check_identity(run, identity(), resume=False)
    run.resolved.write_text("a: [", encoding="utf-8")
    with pytest.raises(InputError, match=r"resolved\.yaml: cannot be read"):
        check_identity(run, identity("train.learning_rate=1e-3"), resume=True)
