"""Importance and rehearsal are made once for a base, rows and options."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from mlx_loopai.config import RunConfig, validate_config
from mlx_loopai.errors import InputError
from mlx_loopai.files import is_sealed, seal, seal_path
from mlx_loopai.runs.artifact_cache import fetch, keep
from mlx_loopai.runs.directory import RunDirectory
from mlx_loopai.training.run import train
from tests.unit.conftest import Heard


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    monkeypatch.setenv("MLX_LOOPAI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def config(model: Path, data: dict[str, Path], **penalty: Any) -> RunConfig:
    values = {
        "model": str(model),
        "sources": {"tale": {"path": str(data["tale"])}},
        "general": str(data["general"]),
        "lora": {"rank": 2, "targets": ["q_proj", "k_proj"]},
        "train": {"max_steps": 1, "rows_per_step": 2, "save_every": 0},
        "replay": {"source": "self", "share": 0.5, "max_prompts": 4, "answer_tokens": 4, "temperature": 1.0},
        "penalty": {"kind": "sketch", "activations": 8, **penalty},
    }
    return validate_config(values, "test")


def test_a_second_run_uses_what_the_first_one_made_and_says_so(
    tiny_model_folder: Path, data_files: dict[str, Path], tmp_path: Path, folder: Path
) -> None:
    heard = [Heard(), Heard(), Heard()]
    options = config(tiny_model_folder, data_files)
    stronger = config(tiny_model_folder, data_files, strength=7.0)
    other = config(tiny_model_folder, data_files, activations=4)
    for number, each in enumerate((options, stronger, other)):
        train(each, tmp_path / str(number), heard[number])
    used = [[notice.partition(":")[0] for notice in one.notices if "an earlier run" in notice] for one in heard]
    assert used == [[], ["rehearsal", "importance"], ["rehearsal"]]
    kept = [path for path in folder.iterdir() if path.suffix != ".sha256"]
    assert sorted(path.name.partition("-")[0] for path in kept) == ["importance"] * 2 + ["rehearsal"]
    assert all(is_sealed(path) for path in kept)
    first, second, third = (RunDirectory(tmp_path / str(number)) for number in range(3))
    assert first.importance.read_bytes() == second.importance.read_bytes() != third.importance.read_bytes()
    assert first.rehearsal.read_bytes() == third.rehearsal.read_bytes()


@pytest.mark.parametrize("kind", ["hlora", "hierarchical", "fisher", "kl"])
def test_runs_with_the_other_penalties(
    tiny_model_folder: Path, data_files: dict[str, Path], tmp_path: Path, heard: Heard, kind: str
) -> None:
    summary = train(config(tiny_model_folder, data_files, kind=kind, path={"epochs": 1}), tmp_path / "run", heard)
    assert summary.steps == 1
    (step,) = (event for event in RunDirectory(tmp_path / "run").read_events() if event["event"] == "step")
    # At its anchor a penalty is nothing; only the first step is taken here.
    assert step["penalty"] == 0
    assert step["gradient_norm"] > 0


def test_free_rehearsal_trains_on_what_the_base_says_unasked(
    tiny_model_folder: Path, data_files: dict[str, Path], tmp_path: Path, heard: Heard
) -> None:
    values = config(tiny_model_folder, data_files).model_dump(mode="json")
    values |= {"penalty": {"kind": "none"}, "selection": {"kind": "eaft"}}
    values["replay"] |= {"source": "free", "objective": "both", "loss_share": 0.4, "temperature": 1.5}
    assert train(validate_config(values, "test"), tmp_path / "run", heard).steps == 1
    assert RunDirectory(tmp_path / "run").rehearsal.read_text(encoding="utf-8").count("rehearsal:") > 1
    assert ("selection in tale", 12) in heard.stages


def test_a_cache_that_cannot_be_written_costs_nothing_else(tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.write_text("whole", encoding="utf-8")
    blocked = tmp_path / "file" / "cache"
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    keep(made, blocked)
    assert not fetch(blocked, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_what_is_kept_stays_when_the_run_is_deleted(tmp_path: Path) -> None:
    made, kept = tmp_path / "made", tmp_path / "cache" / "kept"
    made.write_text("whole", encoding="utf-8")
    seal(made)
    keep(made, kept)
    os.unlink(made)
    assert fetch(kept, made)
    assert made.read_text(encoding="utf-8") == "whole"
    assert is_sealed(made)


def test_a_run_and_the_cache_never_share_a_file(tmp_path: Path) -> None:
    made, kept = tmp_path / "made", tmp_path / "cache" / "kept"
    made.write_text("whole", encoding="utf-8")
    seal(made)
    keep(made, kept)
    made.write_text("edited", encoding="utf-8")
    assert kept.read_text(encoding="utf-8") == "whole"
    assert fetch(kept, tmp_path / "other")
    (tmp_path / "other").write_text("edited", encoding="utf-8")
    assert kept.read_text(encoding="utf-8") == "whole"


@pytest.mark.parametrize("damage", [b"", b"whol", b"Whole", None])
def test_what_is_kept_but_damaged_is_not_used(tmp_path: Path, damage: bytes | None) -> None:
    made, kept = tmp_path / "made", tmp_path / "cache" / "kept"
    made.write_bytes(b"whole")
    seal(made)
    keep(made, kept)
    if damage is None:
        seal_path(kept).unlink()
    else:
        kept.write_bytes(damage)
    assert not fetch(kept, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_damaged_cache_is_named_and_made_anew_and_a_damaged_run_is_refused(
    tiny_model_folder: Path, data_files: dict[str, Path], tmp_path: Path, folder: Path
) -> None:
    options = config(tiny_model_folder, data_files)
    train(options, tmp_path / "first", Heard())
    (kept,) = (path for path in folder.glob("importance-*") if path.suffix != ".sha256")
    whole = kept.read_bytes()
    kept.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    heard = Heard()
    train(options, tmp_path / "second", heard)
    assert [notice for notice in heard.notices if str(kept) in notice and "made anew" in notice]
    assert is_sealed(kept)
    second = RunDirectory(tmp_path / "second")
    second.rehearsal.write_text(second.rehearsal.read_text(encoding="utf-8").replace("1", "2", 1), encoding="utf-8")
    with pytest.raises(InputError, match=r"rehearsal\.jsonl: changed or damaged"):
        train(options, second.path, Heard(), resume=True)
