"""`mlx-loopai train`: both of its forms, what it prints, and what it leaves on the disk."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlx_loopai.cli.listener import ShownProgress
from mlx_loopai.cli.main import main
from mlx_loopai.cli.train import judged_text, next_step
from mlx_loopai.runs.directory import RunDirectory
from mlx_loopai.runs.documents.verdict import JudgedSummary
from tests.unit.cli.conftest import N_ROWS, Ended
from tests.unit.runs.test_documents import DONE

CommandLine = Callable[..., Ended]

# docs/json.md promises these to scripts.
KEYS = {
    "run", "steps", "loss_first", "loss_last", "supervised_tokens", "tokens_per_s", "real_token_share",
    "supervised_token_share", "peak_bytes", "plan_bytes", "resumed_from",
}  # fmt: skip


def settings(*pairs: str) -> list[str]:
    return [argument for pair in pairs for argument in ("--set", pair)]


def summary(ended: Ended) -> dict[str, Any]:
    """The one JSON document on stdout."""
    assert ended.status == 0, ended.stderr
    assert ended.stdout.count("\n") == 1
    return json.loads(ended.stdout)


def write_recipe(folder: Path, model: Path | str, **changes: Any) -> Path:
    recipe = {
        "model": str(model),
        "sources": {"tales": {"path": "rows.jsonl", "category": "creative"}},
        "lora": {"rank": 2, "alpha": 4},
        "train": {"rows_per_step": 4, "epochs": 1, "learning_rate": 0.01},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe | changes, allow_unicode=True), encoding="utf-8")
    return path


def test_rows_on_the_command_line(
    command_line: CommandLine, tiny_model_folder: Path, rows_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    options = settings("train.max_steps=6", "train.learning_rate=2e-2", "train.rows_per_step=4")
    ended = command_line(
        "train", "--model", tiny_model_folder, "--data", rows_file, "--out", out, "--plain", *options, "--json"
    )
    found = summary(ended)
    assert found.keys() >= KEYS
    assert (found["run"], found["steps"], found["resumed_from"]) == (str(out), 6, None)
    assert found["loss_last"] < found["loss_first"]
    assert found["supervised_tokens"] > 6 * 4
    assert 0 < found["supervised_token_share"] < found["real_token_share"] <= 1
    assert found["plan_bytes"] > 0
    assert found["peak_bytes"] > 0
    assert "training: 6 of 6" in ended.stderr
    names = {path.name for path in out.iterdir()}
    assert {"adapter", "checkpoints", "events.jsonl", "resolved.yaml", "run.json"} <= names
    assert not [name for name in names if "tmp" in name]
    events = [json.loads(line) for line in (out / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [event["step"] for event in events if event["event"] == "step"] == [1, 2, 3, 4, 5, 6]
    assert {key: events[-1][key] for key in found} == found


def test_a_recipe(command_line: CommandLine, tiny_model_folder: Path, rows_file: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, tiny_model_folder)
    found = summary(command_line("train", recipe, "--out", tmp_path / "run", "--json", "--quiet"))
    assert found["steps"] == -(-N_ROWS // 4)
    written = yaml.safe_load((tmp_path / "run" / "resolved.yaml").read_text(encoding="utf-8"))
    assert written["lora"]["rank"] == 2
    assert written["sources"]["tales"]["path"] == str(rows_file)


def test_the_short_form_is_guarded_and_judged(command_line: CommandLine, rows_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    small = settings(
        "train.max_steps=2", "train.rows_per_step=4", "replay.max_prompts=8", "replay.answer_tokens=6",
        "forgetting.questions=3", "lora.rank=2",
    )  # fmt: skip
    ended = command_line("train", "--data", rows_file, "--out", out, *small, "--json")
    found = summary(ended)
    assert found.keys() >= KEYS | {
        "retention", "retention_min", "noise_floor", "gain", "budget_spent", "verdict", "samples", "report",
    }  # fmt: skip
    assert found["verdict"] == "too little data"
    assert {"prompt", "base", "tuned"} <= found["samples"][0].keys()
    assert Path(found["report"]).is_file()
    assert yaml.safe_load((out / "resolved.yaml").read_text(encoding="utf-8"))["replay"]["source"] == "self"
    shown = command_line("gate", out)
    assert "too few to learn from" in shown.stderr
    # A figure that is missing has no unit, and no advice on how to use it.
    judged = replace(JudgedSummary.read(RunDirectory(out).verdict), switched_retention=None, gain=None)
    assert [line.split(maxsplit=1) for line in judged_text(judged).splitlines() if "not measured" in line] == [
        ["switched", "not measured"],
        ["learnt", "not measured"],
    ]


def test_the_recipe_and_the_command_line_give_the_same_adapter(
    command_line: CommandLine, tiny_model_folder: Path, rows_file: Path, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path, tiny_model_folder, sources={"rows": {"path": "rows.jsonl"}})
    summary(command_line("train", recipe, "--out", tmp_path / "a", "--json"))
    same = settings("lora.rank=2", "lora.alpha=4", "train.rows_per_step=4", "train.learning_rate=0.01")
    given = ("--plain", "--model", tiny_model_folder, "--data", rows_file, *same)
    summary(command_line("train", *given, "--out", tmp_path / "b", "--json"))
    weights = [(tmp_path / run / "adapter" / "adapters.safetensors").read_bytes() for run in "ab"]
    assert weights[0] == weights[1]


def test_model_on_the_command_line_goes_before_the_recipes(
    command_line: CommandLine, tiny_model_folder: Path, rows_file: Path, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path, "no/such-model")
    out = tmp_path / "run"
    summary(command_line("train", recipe, "--model", tiny_model_folder, "--out", out, "--json"))
    assert yaml.safe_load((out / "resolved.yaml").read_text(encoding="utf-8"))["model"] == str(tiny_model_folder)


def test_two_files_of_rows(command_line: CommandLine, tiny_model_folder: Path, rows_file: Path, tmp_path: Path) -> None:
    other = tmp_path / "more" / "rows.jsonl"
    other.parent.mkdir()
    shutil.copy(rows_file, other)
    given = ("--plain", "--model", tiny_model_folder, "--data", rows_file, "--data", other, "--out", tmp_path / "run")
    found = summary(command_line("train", *given, "--json"))
    assert found["steps"] == -(-2 * N_ROWS // 8)


def test_data_repeat_until_max_steps(
    command_line: CommandLine, tiny_model_folder: Path, rows_file: Path, tmp_path: Path
) -> None:
    given = ("--model", tiny_model_folder, "--data", rows_file, "--out", tmp_path / "run")
    options = settings("train.max_steps=3", f"train.rows_per_step={3 * N_ROWS}")
    found = summary(command_line("train", *given, *options, "--json"))
    assert found["steps"] == 3
    assert found["skipped_steps"] == 0


def test_quiet_and_plain_text(
    command_line: CommandLine, tiny_model_folder: Path, rows_file: Path, tmp_path: Path
) -> None:
    given = ("--plain", "--model", tiny_model_folder, "--data", rows_file, "--out", tmp_path / "run")
    ended = command_line("train", *given, *settings("train.max_steps=1"), "--quiet")
    assert (ended.status, ended.stderr) == (0, "")
    assert "1 steps in " in ended.stdout
    assert f"adapter: {tmp_path / 'run'}/adapter\n" in ended.stdout


@pytest.mark.parametrize(
    ("setting", "near"),
    [
        ("train.learning_rte=1e-4", "unknown key train.learning_rte; did you mean learning_rate?"),
        ("lora.rnak=4", "unknown key lora.rnak; did you mean rank?"),
        ("trian.epochs=2", "unknown key trian; did you mean train?"),
        ("penalty.kind=kronecke", "penalty.kind: no such kind; known: none, kronecker"),
        ("train.max_steps=-1", "train.max_steps: Input should be greater than or equal to 0 (got -1)"),
        ("train.epochs", "--set train.epochs: expected NAME=VALUE"),
        ("lora.targets=[q_porj]", "lora.targets: qwen2 has no q_porj; known: q_proj, "),
    ],
)
def test_a_wrong_setting_names_the_nearest(
    command_line: CommandLine, tiny_model_folder: Path, rows_file: Path, tmp_path: Path, setting: str, near: str
) -> None:
    given = ("--model", tiny_model_folder, "--data", rows_file, "--out", tmp_path / "run")
    ended = command_line("train", *given, "--set", setting)
    assert (ended.status, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert near in ended.stderr
    assert not (tmp_path / "run").exists()


def test_the_adapter_answers(command_line: CommandLine, tiny_model_folder: Path, finished_run: Path) -> None:
    asked = (
        "generate",
        "0번째 밤 이야기",
        "--model",
        tiny_model_folder,
        "--max-tokens",
        "5",
        "--scripts",
        "off",
        "--json",
        "--quiet",
    )
    for adapter in (finished_run / "run" / "adapter", finished_run / "run"):
        ended = command_line(*asked, "--adapter", adapter)
        assert summary(ended)["prompt_tokens"] > 5
        assert ended.stderr == ""


def test_guarded_in_phases(command_line: CommandLine, tiny_model_folder: Path, rows_file: Path, tmp_path: Path) -> None:
    phases = [{"name": "first", "mixture": {"tales": 0.5}}, {"name": "second", "mixture": {"tales": 1}}]
    guarded = {
        "phases": phases,
        "general": "rows.jsonl",
        "replay": {"source": "records", "share": 0.5},
        "penalty": {"kind": "kronecker", "strength": 0.01, "sequences": 4},
    }
    recipe = write_recipe(tmp_path, tiny_model_folder, **guarded)
    ended = command_line("train", recipe, "--out", tmp_path / "run", "--json")
    assert summary(ended)["steps"] == -(-N_ROWS // 4) + -(-2 * N_ROWS // 4)
    assert "importance: 1 of 1" in ended.stderr
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [event for event in events if event["event"] == "step"]
    assert list(dict.fromkeys(step["phase"] for step in steps)) == ["first", "second"]
    assert steps[-1]["penalty"] > 0


def test_ctrl_c_saves_and_resume_ends_like_an_uninterrupted_run(
    command_line: CommandLine,
    tiny_model_folder: Path,
    rows_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = settings("train.max_steps=5", "lora.dropout=0.1")
    given = ("--plain", "--model", tiny_model_folder, "--data", rows_file, *options)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    expected = summary(command_line("train", *given, "--out", whole, "--json"))
    with monkeypatch.context() as patch:
        patch.setattr(ShownProgress, "advance", _interrupt_at(2))
        ended = command_line("train", *given, "--out", stopped, "--json", "--quiet")
    assert (ended.status, ended.stdout) == (130, "")
    assert ended.stderr.count("\n") == 1
    assert "--resume" in ended.stderr
    assert str(stopped / "checkpoints" / "step-000002") in ended.stderr
    assert not (stopped / "adapter").exists()
    found = summary(command_line("train", *given, "--out", stopped, "--json", "--resume"))
    assert found["resumed_from"] == str(stopped / "checkpoints" / "step-000002")
    assert (found["steps"], found["supervised_tokens"]) == (expected["steps"], expected["supervised_tokens"])
    weights = [(run / "adapter" / "adapters.safetensors").read_bytes() for run in (whole, stopped)]
    assert weights[0] == weights[1]


def test_resume_without_a_checkpoint_starts_over_and_says_so(
    command_line: CommandLine, tiny_model_folder: Path, rows_file: Path, tmp_path: Path
) -> None:
    given = ("--plain", "--model", tiny_model_folder, "--data", rows_file, "--out", tmp_path / "run")
    ended = command_line("train", *given, *settings("train.max_steps=1"), "--resume", "--json")
    assert summary(ended)["resumed_from"] is None
    assert "no complete checkpoint; starting over" in ended.stderr


def _interrupt_at(step: int) -> Callable[..., None]:
    def advance(self: ShownProgress, done: int, note: str = "") -> None:
        if done == step and "loss" in note:  # a training step, not a row that is scored
            os.kill(os.getpid(), signal.SIGINT)

    return advance


def test_rows_as_people_have_them(command_line: CommandLine, tiny_model_folder: Path, tmp_path: Path) -> None:
    """A greeting first, an answer of weight 0, a field nobody reads, a bad row: counted and said, or the run stops."""
    turns = [{"from": "gpt", "value": "어서 오세요"}, {"from": "human", "value": "가"}]
    turns += [
        {"from": "gpt", "value": "나", "weight": 0},
        {"from": "human", "value": "다"},
        {"from": "gpt", "value": "라"},
    ]
    rows = [{"id": 1, "conversations": turns}, {"conversations": turns, "mood": "x"}]
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    steps = settings("train.max_steps=1", "train.rows_per_step=2")
    arguments = ("train", "--plain", "--model", tiny_model_folder, "--data", folder, *steps, "--json")
    ended = command_line(*arguments, "--out", tmp_path / "run")
    # "라" is three bytes, and each answer has its end.
    assert summary(ended)["supervised_tokens"] == 2 * (3 + 1)
    assert f"note: {folder}: fields not used: id, mood" in ended.stderr
    with (folder / "train.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"prompt": "가", "completion": "나", "label": False}) + "\n")
    ended = command_line(*arguments, "--out", tmp_path / "two")
    assert ended.status == 2
    assert "train.jsonl:3: " in ended.stderr
    assert "preference.objective" in ended.stderr
    lines = [json.dumps(row) for row in (*rows, {"prompt": "가", "completion": ""})]
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    ended = command_line(*arguments, "--out", tmp_path / "two", "--skip-bad")
    assert "left out 1 rows: " in ended.stderr
    assert summary(ended)["steps"] == 1


def test_a_dry_run_says_what_is_needed_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "안녕", "completion": "반가워요."}\n' * 4, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--data", str(rows), "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fits"] is True
    assert found["time"]["steps"] > 0
    assert "guards_bytes" in found
    assert list(tmp_path.iterdir()) == [rows]


def test_a_run_needs_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--data", "rows.jsonl"]) == 2
    assert "--out" in capsys.readouterr().err


def prompts_file(folder: Path) -> Path:
    path = folder / "prompts.jsonl"
    rows = [
        {"prompt": f"{topic} 이야기를 들려주세요.", "length": [10, 60]} for topic in ("바다", "산", "눈", "강", "별")
    ]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


GRPO = settings(
    "preference.objective=grpo", "preference.answer_tokens=12", "preference.group=2", "train.rows_per_step=2",
    "train.max_steps=3", "lora.rank=2", "validation_share=0.4", "train.learning_rate=1e-3",
)  # fmt: skip


def test_nano_learns_from_its_own_answers_to_prompts(command_line: CommandLine, tmp_path: Path) -> None:
    out, data = tmp_path / "run", prompts_file(tmp_path)
    given = ("--plain", "--model", "nano", "--data", data, "--out", out, *GRPO, *settings("forgetting.budget=0"))
    found = summary(command_line("train", *given, "--json"))
    assert found.keys() >= KEYS
    assert (found["loss_first"], found["loss_last"], found["stopped_by"]) == (None, None, "")
    for name in ("reward_first", "reward", "faultless_first", "faultless"):
        assert 0 <= found[name] <= 1
    assert 0 < found["answer_tokens"] <= 12
    ended = command_line("report", out)
    assert ended.status == 0, ended.stderr
    assert "reward of answers to held-out prompts" in (out / "report.html").read_text(encoding="utf-8")
    again = command_line("train", *given, "--resume", "--quiet")
    assert again.status == 0
    assert "held-out prompts: reward" in again.stdout
    assert "loss" not in again.stdout


def test_a_run_that_stops_itself_says_so_with_its_exit_status(command_line: CommandLine, tmp_path: Path) -> None:
    out, data = tmp_path / "run", prompts_file(tmp_path)
    budget = settings("forgetting.budget=1e-3", "forgetting.monitor_every=1", "train.schedule=constant")
    more = settings("validation_share=0", "preference.group=6", "preference.temperature=2", "train.max_steps=9")
    given = ("--plain", "--model", "nano", "--data", data, "--out", out, *GRPO, *budget, *more, "--json")
    ended = command_line("train", *given)
    assert ended.status == 1
    found = json.loads(ended.stdout)
    assert found["stopped_by"] == "budget"
    assert found["steps"] < 9
    assert found["budget_spent"] <= 1e-3
    last = ended.stderr.strip().splitlines()[-1]
    assert last.startswith(f"mlx-loopai: error: stopped at step {found['steps']}, outside of its forgetting budget")
    assert (out / "adapter" / "adapters.safetensors").is_file()


@pytest.mark.parametrize(
    ("figures", "following"),
    [
        ({"verdict": "pass"}, "chat --adapter RUN"),
        ({"verdict": "fail"}, "adapters frontier RUN"),  # less of it may keep enough
        ({"verdict": "fail", "gain_interval": (-0.1, 0.3)}, "evaluate --adapter RUN"),  # less of nothing is nothing
        ({"verdict": "unclear"}, "evaluate --adapter RUN"),
    ],
)
def test_what_follows_a_run_depends_on_what_it_learnt_and_kept(figures: dict[str, Any], following: str) -> None:
    judged = JudgedSummary(**DONE | {"steps": 99, "gain": 0.2, "gain_interval": (0.1, 0.3)} | figures)
    assert next_step(judged, Path("RUN")) == following
