"""Whole runs on prompts that the model answers itself: they learn, go on bit for bit, and stop at their budget."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_loopai.config import PreferenceOptions, RunConfig, TrainPath
from mlx_loopai.data.tokens import TokenRow
from mlx_loopai.data.unanswered import Wishes
from mlx_loopai.errors import InputError
from mlx_loopai.evaluation.rewards import Reward
from mlx_loopai.guards.budget import READINGS_OUTSIDE
from mlx_loopai.models.load import load_model
from mlx_loopai.runs.directory import RunDirectory
from mlx_loopai.runs.documents.run import read_run
from mlx_loopai.runs.documents.summary import Summary
from mlx_loopai.training import drawing
from mlx_loopai.training.checkpoint import checkpoint_path
from mlx_loopai.training.drawing import FEWEST_READ, Drawer, Room, answers_read
from mlx_loopai.training.monitor import Monitor, Reading
from mlx_loopai.training.process_group import ProcessGroup
from mlx_loopai.training.run import train
from tests.unit.conftest import Heard
from tests.unit.training.test_preference_run import TOPICS, judged_run, write
from tests.unit.training.test_run import WEIGHTS, adapter, check_resumes_bit_for_bit, stop_after

LIMITED = {"preference__group": 4, "preference__answer_tokens": 8, "train__max_tokens": 160}


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    return write(tmp_path / "prompts.jsonl", [{"prompt": f"{topic} 이야기를 써 주세요."} for topic in TOPICS])


@pytest.fixture
def configure(
    tiny_model_folder: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., RunConfig]:
    monkeypatch.setenv("MLX_LOOPAI_CACHE", str(tmp_path / "cache"))

    def build(path: Path = prompts, **options: Any) -> RunConfig:
        grpo = {"preference__objective": "grpo", "forgetting__budget": 0.0} | LIMITED
        return judged_run(tiny_model_folder, path, grpo | options)

    return build


@pytest.fixture
def by_evenness(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers are the better the more of their characters have an even code: a model of random weights can learn it."""

    def reward_of(text: str, finished: bool, wishes: Wishes, options: PreferenceOptions) -> Reward:
        value = float(np.mean([ord(char) % 2 == 0 for char in text])) if text else 0.0
        return Reward(value, {"even": value})

    monkeypatch.setattr(drawing, "reward_of", reward_of)


def events(folder: Path, name: str) -> list[dict[str, Any]]:
    return [event for event in RunDirectory(folder).read_events() if event["event"] == name]


def test_rewards_rise_and_the_run_says_so(
    configure: Callable[..., RunConfig], tmp_path: Path, heard: Heard, by_evenness: None
) -> None:
    summary = train(configure(train__epochs=8, train__validate_every=8), tmp_path / "run", heard)
    assert summary.reward is not None
    assert summary.reward_first is not None
    assert summary.reward > summary.reward_first + 0.05
    assert (summary.loss_first, summary.loss_last, summary.validation_last) == (None, None, None)
    assert summary.answers_divergence is not None
    assert summary.answers_divergence > 0
    assert 0 < summary.supervised_token_share < 1
    assert 0 < summary.real_token_share <= 1
    assert (summary.stopped_by, summary.result_step, summary.steps) == ("", None, 16)
    readings = events(tmp_path / "run", "prompts")
    assert [(event["step"], event["prompts"]) for event in readings] == [(0, 2), (8, 2), (16, 2), (16, 2)]
    assert readings[0]["divergence"] == pytest.approx(0, abs=1e-5)
    assert (readings[0]["reward"], readings[-1]["reward"]) == (summary.reward_first, summary.reward)
    steps = events(tmp_path / "run", "step")
    for name in ("reward", "faultless", "answer_tokens", "alike"):
        assert all(np.isfinite(step[name]) for step in steps)
    assert ("held-out prompts", FEWEST_READ) in heard.stages
    notes = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert notes["mlx_loopai"]["figures"]["reward"] == summary.reward
    assert read_run(RunDirectory(tmp_path / "run")).steps[0].reward == steps[0]["reward"]


def test_a_stopped_run_goes_on_bit_for_bit_with_rehearsal_in_its_steps(
    configure: Callable[..., RunConfig], data_files: dict[str, Path], tmp_path: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch,
    by_evenness: None, path: TrainPath,
) -> None:  # fmt: skip
    config = configure(
        train__epochs=2, train__path=path, general=str(data_files["general"]), replay__source="records",
        replay__share=0.4, replay__loss_share=0.3, replay__objective="kl", forgetting__budget=50.0,
        preference__updates=2, preference__group=2,
    )  # fmt: skip
    check_resumes_bit_for_bit(config, tmp_path, heard, monkeypatch)
    assert events(tmp_path / "whole", "monitor")


def test_a_run_that_was_killed_goes_on_bit_for_bit_from_its_last_checkpoint(
    configure: Callable[..., RunConfig],
    tmp_path: Path,
    heard: Heard,
    monkeypatch: pytest.MonkeyPatch,
    by_evenness: None,
) -> None:
    config = configure(train__max_steps=4, train__save_every=2, preference__group=2)
    train(config, tmp_path / "whole", heard)
    with monkeypatch.context() as patched:
        stop_after(patched, 4, error=RuntimeError("killed"))
        with pytest.raises(RuntimeError, match="killed"):
            train(config, tmp_path / "cut", heard)
    found = train(config, tmp_path / "cut", heard, resume=True)
    assert str(found.resumed_from).endswith("step-000002")
    assert adapter(tmp_path / "whole") == adapter(tmp_path / "cut")
    rewards = [[step["reward"] for step in events(tmp_path / name, "step")] for name in ("whole", "cut")]
    assert rewards[0] == rewards[1]


def test_each_step_draws_other_answers_and_a_run_always_the_same(
    configure: Callable[..., RunConfig], tmp_path: Path, heard: Heard, by_evenness: None
) -> None:
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        train(configure(train__seed=seed, train__max_steps=3, train__learning_rate=1e-9), tmp_path / name, heard)
    assert adapter(tmp_path / "one") == adapter(tmp_path / "same")
    rewards = {name: [step["reward"] for step in events(tmp_path / name, "step")] for name in ("one", "other")}
    assert len(set(rewards["one"])) == 3
    assert rewards["one"] != rewards["other"]


def test_equally_good_answers_teach_nothing(
    configure: Callable[..., RunConfig], tmp_path: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "reward_of", lambda *given: Reward(0.5, {"loop": 0.5}))
    summary = train(configure(train__max_steps=2), tmp_path / "run", heard)
    assert (summary.supervised_tokens, summary.skipped_steps, summary.faultless) == (0, 0, 0)
    assert summary.answers_divergence == pytest.approx(0, abs=1e-6)
    assert [step["alike"] for step in events(tmp_path / "run", "step")] == [1, 1]


def test_rows_with_answers_are_learnt_beside_prompts(
    configure: Callable[..., RunConfig], data_files: dict[str, Path], tmp_path: Path, heard: Heard, by_evenness: None
) -> None:
    rows = [{"prompt": f"{topic}?", "completion": f"{topic}!"} for topic in TOPICS]
    both = write(tmp_path / "both.jsonl", [*rows, *({"prompt": f"{topic}."} for topic in TOPICS)])
    summary = train(configure(both, train__epochs=6), tmp_path / "run", heard)
    assert summary.loss_first is not None
    assert summary.loss_last is not None
    assert summary.loss_last < summary.loss_first
    assert summary.reward is not None
    assert summary.validation_last is not None


def leaving(spent: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the monitor say that the run has spent this much, one value a reading; then what it really reads."""
    read, left = Monitor.read, iter(spent)

    def told(monitor: Monitor) -> Reading:
        found = read(monitor)
        return replace(found, spent=next(left, found.spent))

    monkeypatch.setattr(Monitor, "read", told)


def stopping(configure: Callable[..., RunConfig], general: Path, **options: Any) -> RunConfig:
    """A run of 8 steps that is read after each, in which the budget does not fall with the rate."""
    given = {
        "general": str(general), "forgetting__monitor_every": 1, "forgetting__budget": 100.0, "train__max_steps": 8,
        "train__schedule": "constant", "train__warmup": 0, "train__keep_checkpoints": 1, "train__save_every": 0,
        "preference__group": 2,
    }  # fmt: skip
    return configure(**given | options)


@pytest.mark.parametrize(
    ("spent", "steps", "result"),
    [
        ([50, 90, 150, 80, 120, 130], 6, 4),  # back inside once, then out for good
        ([10, 200, 200], 3, 1),
        ([300, 300], 2, None),  # no reading was inside
        ([10] * 8, 8, None),
        ([10, 200] * 4, 8, None),  # never out twice in a row
    ],
)
def test_a_run_stops_itself_when_it_leaves_its_budget(
    configure: Callable[..., RunConfig], data_files: dict[str, Path], tmp_path: Path, heard: Heard,
    monkeypatch: pytest.MonkeyPatch, by_evenness: None, spent: list[float], steps: int, result: int | None,
) -> None:  # fmt: skip
    leaving(spent, monkeypatch)
    config = stopping(configure, data_files["general"])
    folder = tmp_path / "run"
    summary = train(config, folder, heard)
    stops = steps < 8
    assert (summary.steps, summary.stopped_by, summary.result_step) == (steps, "budget" if stops else "", result)
    assert len(events(folder, "stopped")) == stops
    assert sum("left its budget of 100 nats" in notice for notice in heard.notices) == stops
    if not stops:
        return
    assert f"for {READINGS_OUTSIDE} readings in a row" in " ".join(heard.notices)
    notes = json.loads((folder / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert notes["mlx_loopai"]["figures"]["stopped_outside_budget_at_step"] == steps
    if result is not None:
        saved = mx.load(str(checkpoint_path(folder / "checkpoints", result) / "arrays.safetensors"))
        for name, array in mx.load(str(folder / "adapter" / WEIGHTS)).items():
            assert mx.array_equal(saved[f"adapter.{name}"], array)
    again = train(config, folder, heard, resume=True)
    assert (again.steps, again.stopped_by, again.result_step) == (steps, "budget", result)


def test_the_rate_that_is_still_to_fall_widens_what_is_allowed(
    configure: Callable[..., RunConfig], data_files: dict[str, Path], tmp_path: Path, heard: Heard,
    monkeypatch: pytest.MonkeyPatch, by_evenness: None,
) -> None:  # fmt: skip
    """Of a linear schedule half is still to fall after 4 of 8 steps: there 1.5 budgets are allowed."""
    leaving([150, 150, 145, 140, 149, 149], monkeypatch)
    config = stopping(configure, data_files["general"], train__schedule="linear")
    assert train(config, tmp_path / "run", heard).steps == 6


def test_without_a_budget_nothing_stops(configure: Callable[..., RunConfig]) -> None:
    assert not configure(forgetting__budget=0.0).stops_at_budget
    plain = configure(forgetting__budget=0.5)
    assert (plain.stops_at_budget, plain.watches, plain.has_budget) == (True, True, False)
    assert not configure(preference__objective="none", forgetting__budget=0.5).watches


def test_micro_batches_hold_whole_groups_that_differ(tiny_model_folder: Path, by_evenness: None) -> None:
    loaded = load_model(str(tiny_model_folder))
    options = PreferenceOptions(objective="grpo", group=3, answer_tokens=5)
    rows = [
        TokenRow(np.arange(1, length, dtype=np.int32), np.zeros(length - 1, np.bool_), "", "domain", wishes=Wishes())
        for length in (4, 9)
    ]
    drawer = Drawer(loaded, options, seed=3, room=Room(answered_rows=2, micro_tokens=26, longest=8))
    drawn = drawer.draw(rows, step=5)
    advantages = np.concatenate([batch.advantages for batch in drawn.batches if batch.advantages is not None])
    assert len(advantages) == 6
    assert advantages.sum() == pytest.approx(0, abs=1e-5)
    for batch in drawn.batches:
        assert batch.ids.size <= 26
        supervised = batch.supervised.sum(axis=1)
        assert ((supervised >= 1) & (supervised <= 5)).all()
        assert not batch.supervised[:, 0].any()
    again = drawer.draw(rows, step=5)
    assert all((one.ids == other.ids).all() for one, other in zip(drawn.batches, again.batches, strict=True))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            {"train__keep_best": True, "train__validate_every": 2},
            "train.keep_best compares the loss of held-out answers",
        ),
        ({"lora__ranks": "importance"}, "lora.ranks importance measures gradients of the training rows"),
        ({"lora__dropout": 0.1}, "set lora.dropout to 0"),
        ({"preference__objective": "dpo"}, r"prompts\.jsonl:1: a prompt without an answer"),
        ({"preference__answer_tokens": 150}, r"prompts\.jsonl:\d+: .* of 150 are more than the 160 of a row"),
    ],
)
def test_what_does_not_go_with_prompts_is_refused(
    configure: Callable[..., RunConfig], tmp_path: Path, heard: Heard, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        train(configure(**options), tmp_path / "run", heard)


def test_few_held_out_prompts_are_given_more_answers() -> None:
    options = PreferenceOptions(objective="grpo", group=4)
    assert [answers_read(options, prompts) for prompts in (1, 30, 32, 64)] == [FEWEST_READ, 5, 4, 4]


def test_several_processes_are_refused(configure: Callable[..., RunConfig], tmp_path: Path, heard: Heard) -> None:
    with pytest.raises(InputError, match="preference.objective grpo in 2 processes"):
        train(configure(), tmp_path / "run", heard, group=ProcessGroup(0, 2))


def test_an_older_summary_is_read() -> None:
    given = {
        "run": "r", "steps": 1, "loss_first": 1.0, "loss_last": 0.5, "validation_first": None, "validation_last": None,
        "supervised_tokens": 1, "tokens_per_s": 1.0, "real_token_share": 1.0, "supervised_token_share": 1.0,
        "peak_bytes": 1, "plan_bytes": 1, "resumed_from": None, "skipped_steps": 0, "train_s": 1.0,
    }  # fmt: skip
    found = Summary.from_json(given, "events.jsonl")
    assert (found.reward, found.stopped_by, found.result_step) == (None, "", None)
