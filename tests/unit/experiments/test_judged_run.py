"""A guarded run is measured and judged; the embedded model has skills to keep."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_loopai.config import RunConfig, validate_config
from mlx_loopai.data.samples import corpus
from mlx_loopai.evaluation.gate import Gate
from mlx_loopai.evaluation.perplexity import RowLosses
from mlx_loopai.experiments.judged_run import learnt_interval, train_and_judge
from mlx_loopai.experiments.verdict import FEWEST_STEPS, verdict_on
from mlx_loopai.library.writing import generate
from mlx_loopai.runs.directory import RunDirectory
from mlx_loopai.runs.documents.run import read_run
from mlx_loopai.runs.documents.summary import Summary
from mlx_loopai.runs.documents.verdict import JudgedSummary
from tests.unit.conftest import Heard


def configured(folder: Path, **changes: Any) -> RunConfig:
    rows = folder / "rows.jsonl"
    lines = [
        [{"role": turn.role, "content": turn.content} for turn in row.messages] for row in corpus.hurting_records(60, 3)
    ]
    rows.write_text("".join(json.dumps({"messages": turns}, ensure_ascii=False) + "\n" for turns in lines), "utf-8")
    values: dict[str, Any] = {
        "sources": {"rows": {"path": str(rows)}},
        "validation_share": 0.2,
        "lora": {"rank": 4},
        "train": {"max_steps": 4, "rows_per_step": 4, "learning_rate": 1e-3, "save_every": 0},
        "replay": {"source": "self", "share": 0.5, "loss_share": 0.4, "max_prompts": 64, "answer_tokens": 12},
        "forgetting": {"questions": 4, "budget": 0.05},
    }
    return validate_config(values | changes, "recipe")


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, JudgedSummary, Heard]:
    folder = tmp_path_factory.mktemp("judged")
    heard = Heard()
    found = train_and_judge(configured(folder), folder / "run", heard)
    assert isinstance(found, JudgedSummary)
    return folder / "run", found, heard


def test_what_it_learnt_and_kept_is_measured(judged: tuple[Path, JudgedSummary, Heard]) -> None:
    _, found, heard = judged
    assert found.retention is not None
    assert 0 < found.retention <= 1
    assert found.noise_floor is not None
    assert 0.5 < found.noise_floor <= 1
    assert found.gain is not None
    assert found.gain_interval is not None
    assert found.gain_interval[0] <= found.gain <= found.gain_interval[1]
    # The held-out rows were scored once before and once after, by the base and by the result.
    assert found.validation_first is not None
    assert found.gain == found.validation_first - found.validation_last
    assert [name for name, _ in heard.stages].count("held-out rows before") == 1
    assert found.budget_spent is not None
    assert found.switched_retention is not None
    assert found.switched_retention >= found.retention - 1e-9 or found.switched_retention > 0.5
    assert found.switch_accuracy is not None
    assert {"loading the base", "loss before", "questions: fine-tuned model"} <= {name for name, _ in heard.stages}


def test_the_same_prompts_are_answered_before_and_after(judged: tuple[Path, JudgedSummary, Heard]) -> None:
    _, found, _ = judged
    assert len(found.samples) == 4
    assert len({sample.prompt for sample in found.samples}) == 4
    assert all(sample.base for sample in found.samples)
    assert [sample.json_taught for sample in found.samples] == [True, True, False, False]  # rows first, then questions


def test_the_switch_lies_with_the_adapter(judged: tuple[Path, JudgedSummary, Heard]) -> None:
    folder = judged[0] / "adapter"
    general = generate(
        "What is the English word for 사과?", adapter=folder, adapter_when="auto", temperature=0.0, max_tokens=16
    )
    base = generate("What is the English word for 사과?", temperature=0.0, max_tokens=16)
    story = generate("판타지 소설을 써주세요", adapter=folder, adapter_when="auto", temperature=0.0, max_tokens=4)
    assert not general.adapter
    assert general.text == base.text
    assert story.adapter


def test_the_folder_holds_verdict_and_evaluation(judged: tuple[Path, JudgedSummary, Heard]) -> None:
    folder, found, _ = judged
    run = read_run(RunDirectory(folder))
    assert run.judged == found
    assert run.evaluation is not None
    assert run.evaluation.retention == found.retention
    assert run.summary == Summary(**{name: value for name, value in vars(found).items() if name in vars(run.summary)})


def test_the_adapter_says_what_it_keeps_and_what_rounding_keeps(judged: tuple[Path, JudgedSummary, Heard]) -> None:
    folder, found, _ = judged
    notes = json.loads((folder / "adapter" / "adapter_config.json").read_text("utf-8"))["mlx_loopai"]["retention"]
    assert notes["retention (GR), 1 for the base"] == found.retention
    assert notes["retention of the base rounded to 8 bits"] == found.noise_floor
    assert "retention of the base rounded to 8 bits" in (folder / "adapter" / "README.md").read_text("utf-8")


@pytest.mark.parametrize("changes", [{"replay": {"source": "none"}}, {"forgetting": {"questions": 0}}])
def test_a_run_without_guards_or_questions_is_not_judged(tmp_path: Path, heard: Heard, changes: dict[str, Any]) -> None:
    train = {"max_steps": 2, "rows_per_step": 2, "save_every": 0}
    found = train_and_judge(configured(tmp_path, **changes, train=train), tmp_path / "run", heard)
    assert not isinstance(found, JudgedSummary)
    assert not RunDirectory(tmp_path / "run").verdict.exists()


@pytest.mark.parametrize(
    ("changes", "verdict", "reason"),
    [
        ({}, "pass", ""),
        ({"steps": FEWEST_STEPS - 1}, "too little data", "too few"),
        ({"gain_interval": (-0.01, 0.2)}, "fail", "nothing was clearly learnt"),
        ({"retention": 0.9}, "fail", "0.900 is kept"),
        ({"retention": 0.92, "noise_floor": 0.96}, "pass", ""),
        ({"retention": None}, "fail", "could not be measured"),
        ({"retention_min": 0.7, "worst_chance": 0.001}, "fail", "sums: 0.700 is kept"),
        ({"retention_min": 0.7, "worst_chance": 0.3}, "unclear", "sums: 0.700 is kept, but so few"),
        ({"retention_min": 0.7, "worst_chance": 0.001, "noise_floor_min": 0.75}, "pass", ""),
        # Where noise leaves nothing of a kind, nothing can be asked of it; the gate says the same.
        ({"retention_min": 0.1, "worst_chance": 0.001, "noise_floor_min": 0.0}, "pass", ""),
        ({"retention_min": 0.7, "worst_chance": 0.3, "retention": 0.9}, "fail", "0.900 is kept"),
    ],
)
def test_the_verdict(
    judged: tuple[Path, JudgedSummary, Heard], changes: dict[str, Any], verdict: str, reason: str
) -> None:
    good = replace(
        judged[1],
        steps=100,
        retention=0.99,
        retention_min=0.98,
        worst_kind="sums",
        noise_floor=0.99,
        noise_floor_min=0.98,
        gain=0.3,
        gain_interval=(0.2, 0.4),
    )
    found, reasons = verdict_on(replace(good, **changes), Gate())
    assert found == verdict
    assert reason in "; ".join(reasons)


def test_the_interval_of_what_was_learnt_holds_the_difference() -> None:
    drawn = np.random.default_rng(0)
    tokens = drawn.integers(5, 40, 30)
    before, after = RowLosses(3.0 * tokens, tokens), RowLosses((2.5 + 0.1 * drawn.normal(size=30)) * tokens, tokens)
    low, high = learnt_interval(before, after)
    assert low < 0.5 < high
    assert high - low < 0.2
