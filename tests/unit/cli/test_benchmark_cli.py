from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlx_loopai.benchmark import protocol
from mlx_loopai.cli.main import main
from tests.unit.benchmark.sides import FakeRun, generated, trained


def _with(monkeypatch: pytest.MonkeyPatch, results: dict[str, list[dict[str, Any]]]) -> None:
    monkeypatch.setattr(protocol, "run_in_process", FakeRun(results))


def test_a_real_race_on_the_tiny_model(
    tiny_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "r.json"
    arguments = ["--model", str(tiny_model_folder), "--equal-length", "16", "--steps", "3", "--rounds", "1"]
    assert main(["benchmark", "train", *arguments, "--out", str(out), "--json", "--quiet"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["equal"]
    assert shown["backends"]["mlx-lm"]["supervised_tokens_per_s"] > 0
    for ours in ("mlx-loopai", "mlx-loopai-compiled"):
        assert shown["ratios"][f"{ours}/mlx-lm"]["peak_bytes"]["median"] > 0
    assert shown["conditions"]["before"].keys() == shown["conditions"]["after"].keys()
    assert json.loads(out.read_text(encoding="utf-8"))["backends"] == shown["backends"]


def test_the_mps_column_is_filled_by_the_same_command(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["mlx-loopai", "mlx-lm", "torch-mps", "torch-cpu"]
    _with(monkeypatch, {name: [trained(100.0 + place)] * 2 for place, name in enumerate(names)})
    plot = tmp_path / "r.svg"
    options = ["--model", str(tiny_model_folder), "--steps", "2", "--rounds", "2", "--backends", ",".join(names)]
    assert main(["benchmark", "train", *options, "--plot", str(plot)]) == 0
    shown = capsys.readouterr()
    assert "| | mlx-loopai | mlx-lm | torch-mps | torch-cpu |" in shown.out
    assert "rented GPU, large" in shown.out
    assert "torch-mps</text>" in plot.read_text(encoding="utf-8")


def test_unequal_sides_end_with_status_1(
    tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _with(monkeypatch, {"mlx-loopai": [trained()], "mlx-lm": [trained(loss=9.0)]})
    options = ["--model", str(tiny_model_folder), "--steps", "2", "--rounds", "1", "--quiet"]
    assert main(["benchmark", "train", *options, "--backends", "mlx-loopai,mlx-lm", "--json"]) == 1
    shown = capsys.readouterr()
    assert json.loads(shown.out)["equal"] is False
    assert "loss_first: mlx-lm 9, mlx-loopai 2" in shown.err


def test_generation_races_by_batches(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("안녕\n\n오늘\n", encoding="utf-8")
    _with(monkeypatch, {"mlx-loopai": [generated([[[1, 2]]])], "torch-mps": [generated([[[1, 2]]])]})
    options = ["--model", str(tiny_model_folder), "--prompts", str(prompts), "--batch", "1", "--rounds", "1"]
    assert main(["benchmark", "generate", *options, "--backends", "mlx-loopai,torch-mps", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["case"]["prompts"] == 2
    assert shown["backends"]["torch-mps"]["batches"]["1"]["tokens_per_s"] == 1.0
    prompts.write_text("\n", encoding="utf-8")
    assert main(["benchmark", "generate", *options]) == 2


def test_two_results_are_compared(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(tmp_path / name) for name in ("a.json", "b.json")]
    for file, rate, rank in zip(files, (100.0, 200.0), (8, 8), strict=True):
        _with(monkeypatch, {"mlx-loopai": [trained(rate)]})
        options = ["--backends", "mlx-loopai", "--steps", "2", "--rounds", "1", "--rank", str(rank), "--out", file]
        assert main(["benchmark", "train", "--model", str(tiny_model_folder), *options]) == 0
    capsys.readouterr()
    assert main(["benchmark", "compare", *files, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ratios"]["mlx-loopai"]["supervised_tokens_per_s"] == 2.0
    changed = json.loads(Path(files[1]).read_text(encoding="utf-8"))
    changed["case"]["rank"] = 4
    Path(files[1]).write_text(json.dumps(changed), encoding="utf-8")
    assert main(["benchmark", "compare", *files]) == 1
    assert "case.rank: 8 and 4" in capsys.readouterr().err
    assert main(["benchmark", "compare", files[0], str(tmp_path / "none.json")]) == 2


def test_a_thin_model_takes_the_place_of_the_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _with(monkeypatch, {"mlx-loopai": [trained()]})
    options = ["--backends", "mlx-loopai", "--vocabulary", "600", "--steps", "2", "--rounds", "1", "--json"]
    assert main(["benchmark", "train", *options]) == 0
    assert json.loads(capsys.readouterr().out)["case"]["model"] == "thin-600"
