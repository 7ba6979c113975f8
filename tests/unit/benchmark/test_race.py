from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlx_loopai.benchmark.cases import GenerateCase, TrainCase, equal_rows
from mlx_loopai.benchmark.race import Setup, race_generation, race_training
from mlx_loopai.errors import InputError, LoopaiError
from mlx_loopai.memory.speed import Peak
from mlx_loopai.runs.documents.race import GenerateRace, TrainRace
from tests.unit.benchmark.sides import FakeRun, generated, trained

SIDES = ["mlx-loopai", "mlx-lm", "torch-mps"]


def _race(tmp_path: Path, model: Path, run: FakeRun, rounds: int = 3, peak: Peak | None = None) -> TrainRace:
    rows = equal_rows(300, 12, 4, 0)
    return race_training(TrainCase(str(model), steps=3), rows, tmp_path / "case", Setup(SIDES, rounds, run, peak))


def _run(**changed: dict) -> FakeRun:
    rates = {"mlx-loopai": 300.0, "mlx-lm": 100.0, "torch-mps": 150.0}
    results = {
        name: [trained(**{"rate": rate, "peak": int(rate), **changed.get(name, {})}) for _ in range(3)]
        for name, rate in rates.items()
    }
    return FakeRun(results)


def test_a_training_race_gives_rates_peaks_and_ratios(tmp_path: Path, tiny_model_folder: Path) -> None:
    run = _run()
    result = _race(tmp_path, tiny_model_folder, run)
    assert result.equal
    assert result.differences == ()
    assert {name: side.supervised_tokens_per_s for name, side in result.backends.items()} == {
        "mlx-loopai": 300.0,
        "mlx-lm": 100.0,
        "torch-mps": 150.0,
    }
    assert result.ratios["mlx-loopai/mlx-lm"]["supervised_tokens_per_s"].median == 3.0
    assert result.ratios["mlx-loopai/torch-mps"]["peak_bytes"].median == 2.0
    assert result.backends["mlx-lm"].real_token_share == 0.75
    assert result.backends["mlx-lm"].flops_share is None
    # One evaluator scores every side's last adapter.
    scores = [(job.backend, Path(job.adapter_out).name) for job in run.jobs if job.kind == "score"]
    assert scores == [("mlx-loopai", f"{name}-2") for name in SIDES]
    json.dumps(result.to_json(), allow_nan=False)


def test_generation_has_no_compiled_side(tmp_path: Path) -> None:
    case = GenerateCase(str(tmp_path), ((1,),))
    with pytest.raises(InputError, match="mlx-loopai-compiled is a way to train"):
        race_generation(case, Setup(["mlx-loopai-compiled"], 1, FakeRun({})))


def test_other_first_losses_are_no_race(tmp_path: Path, tiny_model_folder: Path) -> None:
    result = _race(tmp_path, tiny_model_folder, _run(**{"mlx-lm": {"loss": 2.001}}))
    assert not result.equal
    assert result.differences == ("loss_first: mlx-lm 2.001, mlx-loopai 2",)
    assert _race(tmp_path / "b", tiny_model_folder, _run(**{"mlx-lm": {"loss": 2.0001}})).equal


def test_other_held_out_losses_are_no_race(tmp_path: Path, tiny_model_folder: Path) -> None:
    run = _run()
    run._held_out = {"torch-mps": 1.6}
    result = _race(tmp_path, tiny_model_folder, run)
    assert result.differences == ("held_out_nll: torch-mps 1.6, mlx-loopai 1.5",)


def test_a_rate_above_the_peak_is_a_measuring_error(tmp_path: Path, tiny_model_folder: Path) -> None:
    with pytest.raises(LoopaiError, match="of the hardware's peak"):
        _race(tmp_path, tiny_model_folder, _run(), peak=Peak(1e9, 1e6))
    result = _race(tmp_path / "b", tiny_model_folder, _run(), peak=Peak(1e9, 1e12))
    assert 0 < result.backends["mlx-loopai"].flops_share < 1


def _generation(model: Path, theirs: list[list[list[int]]], peak: Peak | None = None) -> GenerateRace:
    ours = [[[1, 2, 3]], [[1, 2, 3], [4, 5, 6]]]
    run = FakeRun({"mlx-loopai": [generated(ours)] * 2, "mlx-lm": [generated(theirs, decode_s=2.0)] * 2})
    case = GenerateCase(str(model), ((1, 2), (3, 4)), max_tokens=3, batches=(1, 2))
    return race_generation(case, Setup(["mlx-loopai", "mlx-lm"], 2, run, peak))


def test_a_generation_race_gives_rates_for_each_batch(tiny_model_folder: Path) -> None:
    result = _generation(tiny_model_folder, [[[1, 2, 3]], [[1, 2, 3], [4, 5, 6]]])
    assert result.equal
    side = result.backends["mlx-loopai"]
    assert side.tokens_per_s == 2.0
    assert side.batches["2"].tokens_per_s == 4.0
    assert side.batches["2"].prefill_tokens_per_s == 40.0
    assert side.peak_bytes == 200
    assert result.ratios["mlx-loopai/mlx-lm"]["tokens_per_s"].median == 2.0


def test_other_answers_are_no_race(tiny_model_folder: Path) -> None:
    result = _generation(tiny_model_folder, [[[1, 2, 3]], [[1, 2, 3], [4, 9, 6]]])
    assert not result.equal
    assert result.differences[0] == "batch 2: mlx-lm answers prompt 2 otherwise than mlx-loopai, from token 2 on"


def test_decoding_above_the_peak_bandwidth_is_a_measuring_error(tiny_model_folder: Path) -> None:
    with pytest.raises(LoopaiError, match="decoding: .* of the hardware's peak"):
        _generation(tiny_model_folder, [[[1, 2, 3]], [[1, 2, 3], [4, 5, 6]]], Peak(1e3, 1e12))
