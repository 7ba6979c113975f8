"""What a run reads from elsewhere is read once: the hub, the model's folder, every data file, every weight."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlx_loopai.config import RunConfig, validate_config
from mlx_loopai.data import rows
from mlx_loopai.data.tokens import ChatEncoder
from mlx_loopai.errors import InputError
from mlx_loopai.evaluation.choices import choose, read_choices
from mlx_loopai.evaluation.suites import read_suite
from mlx_loopai.experiments.grid import Grid, Trials
from mlx_loopai.experiments.measurement import Measure
from mlx_loopai.models import load
from mlx_loopai.models.load import load_model
from mlx_loopai.models.shape import ModelShape
from mlx_loopai.runs.context import RunContext
from mlx_loopai.runs.directory import RunDirectory
from mlx_loopai.training.run import train
from tests.unit.conftest import Heard


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Counter[str]:
    """How often each thing outside the run is asked for."""
    calls: Counter[str] = Counter()
    monkeypatch.setenv("MLX_LOOPAI_CACHE", str(tmp_path / "cache"))

    def count(name: str, owner: Any, attribute: str, label: Callable[..., str] = lambda *_: "") -> None:
        real = getattr(owner, attribute)

        def counting(*arguments: Any, **options: Any) -> Any:
            calls[name + label(*arguments)] += 1
            return real(*arguments, **options)

        monkeypatch.setattr(owner, attribute, counting)

    count("resolve", load, "resolve_model")
    count("shape", ModelShape, "from_folder")
    count("tokenizer", load, "load_tokenizer")
    count("weights", load, "read_model")
    count("read ", rows, "reading_of", lambda path, *_: Path(path).stem)
    count("encode", ChatEncoder, "split_long")
    return calls


def configured(model: Path, data: dict[str, Path], **train_options: Any) -> RunConfig:
    values = {
        "model": str(model),
        "sources": {name: {"path": str(data[name])} for name in ("talk", "tale")},
        "general": str(data["general"]),
        "validation": str(data["trade"]),
        "lora": {"rank": 2, "targets": ["q_proj"]},
        "train": {"max_steps": 2, "rows_per_step": 2, "save_every": 0, **train_options},
        "replay": {"source": "records", "share": 0.2},
        "penalty": {"kind": "sketch", "activations": 8},
        "forgetting": {"monitor_every": 1, "kept_floor": 0.0},
    }
    return validate_config(values, "test")


READ_ONCE = {"resolve": 1, "shape": 1, "tokenizer": 1, "weights": 1} | {
    f"read {name}": 1 for name in ("talk", "tale", "general", "trade")
}
ROWS = 12  # of each of the four files


def test_a_run_asks_for_everything_once(
    tiny_model_folder: Path, data_files: dict[str, Path], tmp_path: Path, heard: Heard, counted: Counter[str]
) -> None:
    train(configured(tiny_model_folder, data_files), tmp_path / "run", heard)
    assert dict(counted) == READ_ONCE | {"encode": 4 * ROWS}


def test_runs_of_a_sweep_share_their_base_and_their_rows(
    tiny_model_folder: Path, data_files: dict[str, Path], tmp_path: Path, heard: Heard, counted: Counter[str]
) -> None:
    """Two arms at two rates and two seeds, each trained, scored and measured: as many reads as one run has.

    The weights alone are read twice: those of the first time were rounded for the noise floor.
    """
    suite = _suite_that_the_base_knows(tiny_model_folder, tmp_path)
    guarded = configured(tiny_model_folder, data_files)
    plain = validate_config(guarded.model_dump(mode="json") | {"penalty": {}, "replay": {}}, "test")
    counted.clear()
    grid = Grid(
        arms={"plain": plain, "guarded": guarded},
        trials=Trials(rates=(1e-3, 2e-2), seeds=(0, 1)),
        out=tmp_path / "compare",
        measure=Measure(read_suite(str(suite)), str(data_files["trade"])),
        listener=heard,
    )
    assert len(grid.run().sweep) == 8
    assert {name: counted[name] for name in READ_ONCE} == READ_ONCE | {"weights": 2}


def _suite_that_the_base_knows(model: Path, folder: Path) -> Path:
    """A suite of choices whose answers are the base's own."""
    import json

    items = [{"question": f"{n}?", "choices": ["가", "나다"], "answer": 0} for n in range(32)]
    path = folder / "choices.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    picks = choose(load_model(str(model), "fp32"), read_choices(path))
    lines = [json.dumps(item | {"answer": pick}) + "\n" for item, pick in zip(items, picks, strict=True)]
    path.write_text("".join(lines), encoding="utf-8")
    (folder / "suite.yaml").write_text("choices: {kind: choice, file: choices.jsonl}\n", encoding="utf-8")
    return folder / "suite.yaml"


def test_other_settings_read_anew(tiny_model_folder: Path, data_files: dict[str, Path], tmp_path: Path) -> None:
    heard = Heard()
    first = RunContext.open(configured(tiny_model_folder, data_files), RunDirectory(tmp_path / "one"), heard)
    same = first.for_run(configured(tiny_model_folder, data_files, seed=3), RunDirectory(tmp_path / "two"))
    longer = first.for_run(configured(tiny_model_folder, data_files, max_tokens=512), RunDirectory(tmp_path / "three"))
    assert first.rows is same.rows
    assert first.general_rows is same.general_rows
    assert first.rows is not longer.rows
    assert first.rows.digest == longer.rows.digest


def test_a_mistyped_data_path_costs_no_loading(
    tiny_model_folder: Path, data_files: dict[str, Path], tmp_path: Path, heard: Heard, counted: Counter[str]
) -> None:
    config = configured(tiny_model_folder, data_files).model_copy(update={"general": str(tmp_path / "no.jsonl")})
    with pytest.raises(InputError, match=r"no\.jsonl"):
        train(config, tmp_path / "run", heard)
    assert counted["weights"] == 0


def test_long_files_are_read_and_encoded_aloud(
    tiny_model_folder: Path, data_files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"model": str(tiny_model_folder), "sources": {"tale": {"path": str(data_files["tale"])}}}
    config = validate_config(values, "test")
    quiet, aloud = Heard(), Heard()
    RunContext.open(config, RunDirectory(tmp_path / "quiet"), quiet).rows  # noqa: B018
    assert quiet.stages == []
    monkeypatch.setattr(rows, "LONG_BYTES", 1)
    monkeypatch.setenv("MLX_LOOPAI_CACHE", str(tmp_path / "cache"))
    RunContext.open(config, RunDirectory(tmp_path / "aloud"), aloud).rows  # noqa: B018
    assert aloud.stages == [(f"reading and encoding {data_files['tale'].name} (MiB)", 1)]
