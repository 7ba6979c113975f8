"""Whole runs on positions in answers: they learn, rehearse beside it, go on bit for bit, and refuse what does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_loopai.config import RunConfig, TrainPath
from mlx_loopai.errors import InputError
from mlx_loopai.models.load import load_tokenizer
from mlx_loopai.runs.directory import RunDirectory
from mlx_loopai.training.run import train
from tests.unit.conftest import Heard
from tests.unit.training.test_preference_run import TOPICS, judged_run, write
from tests.unit.training.test_run import check_resumes_bit_for_bit

GOOD, BAD = ("그", "저", "아"), ("the", "今", "it")


@pytest.fixture
def positions(tiny_model_folder: Path, tmp_path: Path) -> Path:
    tokenizer = load_tokenizer(tiny_model_folder)

    def candidate(text: str, score: float) -> dict[str, Any]:
        token = tokenizer.encode(text, add_special_tokens=False)[0]
        piece = tokenizer.convert_ids_to_tokens(token)
        return {"token": token, "piece": piece, "text": text, "score": score, "logprob": -6.0}

    def row(topic: str, number: int) -> dict[str, Any]:
        prefix = f"{topic}에는 "[: number % 3 * 2]
        tokens = tokenizer.encode(prefix, add_special_tokens=False) if prefix else []
        found = [candidate(text, 1.0) for text in GOOD[: 1 + number % 3]] + [candidate(text, 0.0) for text in BAD]
        unique = list({one["token"]: one for one in found}.values())
        return {
            "prompt": f"{topic} 이야기를 써 주세요.",
            "prefix": prefix,
            "prefix_tokens": tokens,
            "candidates": unique,
        }

    return write(tmp_path / "positions.jsonl", [row(topic, number) for number, topic in enumerate(TOPICS)])


@pytest.fixture
def configure(
    tiny_model_folder: Path, positions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., RunConfig]:
    monkeypatch.setenv("MLX_LOOPAI_CACHE", str(tmp_path / "cache"))

    def build(path: Path = positions, **options: Any) -> RunConfig:
        tlpo = {"preference__objective": "tlpo", "preference__ratio_clip": 5.0}
        return judged_run(tiny_model_folder, path, tlpo | options)

    return build


def events(folder: Path, name: str) -> list[dict[str, Any]]:
    return [event for event in RunDirectory(folder).read_events() if event["event"] == name]


def test_better_tokens_win_at_held_out_positions_and_the_run_says_so(
    configure: Callable[..., RunConfig], tmp_path: Path, heard: Heard
) -> None:
    summary = train(configure(train__epochs=6, train__validate_every=6), tmp_path / "run", heard)
    assert (summary.pair_accuracy, summary.positions) == (1.0, 2)
    assert summary.margin is not None
    assert summary.margin > 0.5
    assert summary.chosen_logprob_change is not None
    assert summary.chosen_logprob_change > 0
    assert summary.loss_last < summary.loss_first  # of the best token at each position
    assert ("the base at positions", 8) in heard.stages
    assert ("the base at positions", 2) in heard.stages
    readings = events(tmp_path / "run", "preference")
    assert [(event["step"], event["positions"]) for event in readings] == [(6, 2), (12, 2), (12, 2)]
    steps = events(tmp_path / "run", "step")
    assert steps[0]["margin"] == pytest.approx(0, abs=1e-4)
    assert steps[0]["loss"] == pytest.approx(0, abs=1e-4)
    assert steps[-1]["margin"] > 0.5
    notes = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert notes["mlx_loopai"]["figures"]["pair_accuracy"] == 1.0
    assert summary.answer_tokens is None


def test_a_stopped_run_goes_on_bit_for_bit_with_rehearsal_in_its_steps(
    configure: Callable[..., RunConfig], data_files: dict[str, Path], tmp_path: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch,
    path: TrainPath,
) -> None:  # fmt: skip
    config = configure(
        train__epochs=2, train__path=path, general=str(data_files["general"]), replay__source="records",
        replay__share=0.4, replay__loss_share=0.3, replay__objective="kl", forgetting__budget=0.05,
    )  # fmt: skip
    check_resumes_bit_for_bit(config, tmp_path, heard, monkeypatch)


def test_a_run_that_goes_on_from_an_adapter_is_compared_with_it(
    configure: Callable[..., RunConfig], tmp_path: Path, heard: Heard
) -> None:
    first = train(configure(train__epochs=4), tmp_path / "first", heard)
    second = configure(lora__start=str(tmp_path / "first"), train__epochs=2)
    found = train(second, tmp_path / "second", heard)
    assert first.validation_last == pytest.approx(found.validation_first, rel=1e-5)
    margins = [event["margin"] for event in events(tmp_path / "second", "step")]
    assert margins[0] == pytest.approx(0, abs=1e-4)
    assert events(tmp_path / "second", "step")[0]["divergence"] > 0  # from the base, not from the start
    assert np.isfinite(margins).all()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"preference__objective": "apo"}, r"positions\.jsonl:1: a position in an answer .*set it to tlpo"),
        ({"preference__objective": "none"}, r"positions\.jsonl:1: a pair of answers, .* or a position in one"),
        ({"lora__dropout": 0.1}, "set lora.dropout to 0"),
        ({"train__z_loss": 0.1}, "set train.z_loss to 0"),
        ({"preference__ratio_clip": 0}, "ratio_clip"),
    ],
)
def test_what_does_not_go_with_positions_is_refused(
    configure: Callable[..., RunConfig], tmp_path: Path, heard: Heard, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        train(configure(**options), tmp_path / "run", heard)
