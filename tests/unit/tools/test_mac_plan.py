"""Lines of published runs, as they are read and predicted; the lines are made up here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlx_loopai.memory.published import PublishedConstants, peak_bytes, published
from tools import mac_plan
from tools.mac_runs import known_shape, published_run

ROOT = Path(__file__).parents[3]


def line(**changes: Any) -> dict[str, Any]:
    """A line that says everything."""
    return {
        "source": "somebody/some-repo README", "software": "mlx 0.32.4; mlx-lm 0.32.2", "chip": "M4 Max",
        "model": "mlx-community/Qwen2.5-1.5B-Instruct-4bit", "bits": 4, "batch": 2, "max_seq": 1024,
        "tokens_per_row": 1024, "lora_layers": 16, "rank": 8, "grad_checkpoint": True, "mask_prompt": False,
        "peak_gb": 4.0, "it_per_s": 1.0, "tokens_per_s": None, "oom": False, "note": "trainable 5.276M", "raw": "",
    } | changes  # fmt: skip


def test_a_line_that_says_everything_is_one_run() -> None:
    run = published_run(line())
    assert run is not None
    (reading,) = run.readings
    assert (reading.batch, reading.longest, reading.layers, reading.lora_parameters) == (2, 1024, 16, 5_276_000)
    assert reading.attention == "linear"
    assert run.source == "somebody/some-repo"
    assert mac_plan.predicted(line(), published())["predicted_peak_gb"] == round(
        peak_bytes(reading, published()) / 1e9, 3
    )


@pytest.mark.parametrize(
    ("changes", "attention", "fused"),
    [
        ({"software": "mlx 0.32.0"}, "quadratic", False),
        ({"software": "mlx 0.32.0", "note": "flash attention, fused loss"}, "linear", True),
        ({"software": "mlx 0.31.2", "note": "stock attention, stock loss"}, "quadratic", False),
        ({"software": "mlx 0.33.1"}, "linear", False),
    ],
)
def test_attention_and_loss_are_read_from_versions_and_notes(
    changes: dict[str, Any], attention: str, fused: bool
) -> None:
    run = published_run(line(**changes))
    assert run is not None
    assert {(reading.attention, reading.fused_loss) for reading in run.readings} == {(attention, fused)}


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "Qwen3.5-4B-4bit"},
        {"model": "somebody's model"},
        {"note": "full fine-tuning"},
        {"note": "GRPO group 4"},
        {"software": "mlx-vlm 0.7"},
        {"software": "PyTorch MPS"},
        {"oom": "Metal OOM", "peak_gb": None},
    ],
)
def test_other_steps_are_not_predicted(changes: dict[str, Any]) -> None:
    found = mac_plan.predicted(line(**changes), published())
    assert found["predicted_peak_gb"] is None
    assert found["predicted_it_per_s"] is None


@pytest.mark.parametrize(
    "changes",
    [
        {"tokens_per_row": 40, "max_seq": 8192},
        {"tokens_per_row": None, "note": ""},
        {"bits": None, "model": "Qwen2.5-1.5B-Instruct"},
        {"grad_checkpoint": None, "batch": 8},
        {"batch": None, "note": ""},
    ],
)
def test_a_line_that_says_too_little_has_no_peak(changes: dict[str, Any]) -> None:
    assert mac_plan.predicted(line(**changes), published())["predicted_peak_gb"] is None


def test_masked_prompts_make_no_rate_of_tokens() -> None:
    masked = published_run(line(it_per_s=None, tokens_per_s=22, mask_prompt=True))
    assert masked is not None
    assert masked.steps_per_s is None
    plain = published_run(line(it_per_s=None, tokens_per_s=2048.0))
    assert plain is not None
    assert plain.steps_per_s == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        ("mlx-community/Llama-3.2-3B-Instruct-4bit", 3072),
        ("meta-llama/Llama-3.1-8B-Instruct", 4096),
        ("llama-3-8b", 4096),
        ("Qwen2.5-Coder-7B-Instruct-4bit", 3584),
        ("Qwen3-0.6B-4bit", 1024),
    ],
)
def test_released_models_are_known_by_name(name: str, hidden: int) -> None:
    shape = known_shape(name)
    assert shape is not None
    assert shape.hidden_size == hidden


def test_a_fit_finds_the_constants_that_made_the_peaks() -> None:
    truth = mac_plan._FIRST
    hidden = PublishedConstants(**{**vars(truth), "loss": 9.0, "process_bytes": 7e8})
    rows = []
    for source, (batch, longest, checkpointing) in enumerate(
        [(1, 1024, True), (2, 1024, True), (4, 2048, True), (1, 2048, False), (2, 512, True), (1, 256, True)]
    ):
        said = line(
            source=f"repo{source}", batch=batch, max_seq=longest, tokens_per_row=longest, grad_checkpoint=checkpointing
        )
        run = published_run(said)
        assert run is not None
        rows.append(published_run(said | {"peak_gb": peak_bytes(run.readings[0], hidden) / 1e9}))
    found = mac_plan.fit_peak([run for run in rows if run is not None])
    for run in rows:
        assert run is not None
        assert mac_plan.peak_of(run, found) == pytest.approx(run.peak_bytes, rel=0.02)


def test_the_command_answers_every_line(tmp_path: Path) -> None:
    points = tmp_path / "points.jsonl"
    points.write_text("".join(json.dumps(row) + "\n" for row in (line(), line(model="unknown"))), encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, "tools/mac_plan.py", str(points), "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    first, second = json.loads(ended.stdout)
    assert first["predicted_peak_gb"] > 1
    assert first["predicted_it_per_s"] > 0
    assert second["predicted_peak_gb"] is None
