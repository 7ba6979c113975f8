"""A run that somebody watches: it answers prompts at its saves, grants wishes, and trains the very same adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlx_loopai.config import RunConfig, load_config
from mlx_loopai.errors import Interrupted
from mlx_loopai.runs.directory import RunDirectory
from mlx_loopai.runs.live import LiveRun
from mlx_loopai.training import loop
from mlx_loopai.training import samples as module
from mlx_loopai.training.run import train
from tests.unit.conftest import Heard


@pytest.fixture
def config(tiny_model_folder: Path, data_files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    monkeypatch.setattr(module, "SAMPLE_TOKENS", 4)
    values = {
        "train.rows_per_step": 4,
        "train.max_steps": 4,
        "train.save_every": 2,
        "lora.rank": 2,
        "lora.dropout": 0.1,
    }
    overrides = tuple(f"{name}={json.dumps(value)}" for name, value in values.items())
    sources = {"tale": {"path": str(data_files["tale"])}}
    return load_config(None, overrides, {"model": str(tiny_model_folder), "sources": sources})


def test_being_watched_changes_nothing_of_the_result(config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "watched").mkdir()
    RunDirectory(tmp_path / "watched").look()
    for name in ("alone", "watched"):
        train(config, tmp_path / name, Heard())
    files = [tmp_path / name / "adapter" / "adapters.safetensors" for name in ("alone", "watched")]
    assert files[0].read_bytes() == files[1].read_bytes()
    alone, watched = (LiveRun(RunDirectory(tmp_path / name)).state() for name in ("alone", "watched"))
    assert alone["samples"] == []
    assert [one["step"] for one in watched["samples"]] == [2, 4]
    answers = [one["answers"] for one in watched["samples"]]
    assert [one["prompt"] for one in answers[0]] == [one["prompt"] for one in answers[1]]
    assert [one["base"] for one in answers[0]] == [one["base"] for one in answers[1]]
    assert len(answers[0]) == module.SAMPLES


def test_the_log_tells_what_the_page_shows(config: RunConfig, tmp_path: Path) -> None:
    summary = train(config, tmp_path, Heard())
    state = LiveRun(RunDirectory(tmp_path)).state()
    assert (state["step"], state["total_steps"], state["done"]) == (4, 4, True)
    assert state["plan_bytes"] == summary.plan_bytes
    assert all(memory > 0 and peak > 0 and reward is None for *_, memory, peak, reward in state["steps"])
    assert state["left_s"] is None


@pytest.mark.parametrize("wish", ["save", "stop"])
def test_a_wish_is_granted_after_the_step(
    wish: Any, config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = loop._advance

    def asking(run: Any, *rest: Any) -> None:
        advance(run, *rest)
        if run.position.step == 1:
            run.directory.ask(wish)

    monkeypatch.setattr(loop, "_advance", asking)
    if wish == "stop":
        with pytest.raises(Interrupted, match="stopped from the page; saved .*step-000001"):
            train(config, tmp_path, Heard())
        monkeypatch.setattr(loop, "_advance", advance)
        assert train(config, tmp_path, Heard(), resume=True).steps == 4
    else:
        train(config, tmp_path, Heard())
    assert LiveRun(RunDirectory(tmp_path)).state()["saves"][:2] == [1, 2]
