"""`compare` on a tiny model: killed, continued, chosen by the domain, reported and gated."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlx_loopai.cli.main import main
from mlx_loopai.config.shipped import RECIPES
from mlx_loopai.evaluation.choices import choose, read_choices
from mlx_loopai.models.adapters import read_adapter_config
from mlx_loopai.models.load import load_model
from mlx_loopai.runs.directory import RunDirectory
from mlx_loopai.training import loop
from mlx_loopai.training.checkpoint import save_checkpoint

from .conftest import Ended

TOPICS = ("봄비", "바다", "골목", "겨울밤", "편지", "기차", "우산", "시장")
KEYS = {"retention", "retention_min", "gain", "domain_score", "probes", "purity", "train_s", "step_s", "peak_bytes"}
RATES = ("0.001", "0.02")


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def stories(times: int) -> list[dict[str, Any]]:
    return [{"prompt": f"{topic} 이야기", "completion": f"{topic} 옛날 옛적에 {'호랑이 ' * times}"} for topic in TOPICS]


@pytest.fixture(scope="module")
def recipe(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe, and beside it a suite of choices, of which the base gets all right: its own are the answers."""
    folder = tmp_path_factory.mktemp("compare")
    write_lines(folder / "rows.jsonl", stories(3))
    write_lines(folder / "held_out.jsonl", stories(2))
    write_lines(folder / "general.jsonl", [{"prompt": f"{topic}?", "completion": f"{topic}!"} for topic in TOPICS])
    items = [
        {"question": f"{number} {topic}?", "choices": [f"{topic} 가", f"{topic} 나다"], "answer": 0}
        for number in range(4)
        for topic in TOPICS
    ]
    path = write_lines(folder / "choices.jsonl", items)
    picks = choose(load_model(str(tiny_model_folder), "fp32"), read_choices(path))
    write_lines(path, [item | {"answer": pick} for item, pick in zip(items, picks, strict=True)])
    write_lines(folder / "choice.jsonl", stories(4))
    (folder / "suite.yaml").write_text("choices: {kind: choice, file: choices.jsonl}\n")
    (folder / "recipe.yaml").write_text(
        f"model: {tiny_model_folder}\nsources: {{rows: {{path: rows.jsonl}}}}\n"
        "validation: held_out.jsonl\ngeneral: general.jsonl\nlora: {rank: 2}\n"
        "train: {rows_per_step: 4, epochs: 3, save_every: 2, warmup: 0}\npenalty: {strength: 0.1, activations: 8}\n"
    )
    return folder / "recipe.yaml"


def arguments(recipe: Path, out: Path) -> list[str]:
    arms = ["--arms", "replay-10,sketch,plain-matched", "--seeds", "2"]
    sweep = ["--sweep", f"train.learning_rate={','.join(RATES)}", "--suite", str(recipe.parent / "suite.yaml")]
    return ["compare", str(recipe), *arms, *sweep, "--out", str(out), "--json", "--quiet"]


class Killed(BaseException):
    """Ends the process's work at once, as a kill would: nothing catches it on the way."""


@pytest.fixture(scope="module")
def compared(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder and the document of a comparison that was killed on its way and continued."""
    out = tmp_path_factory.mktemp("out") / "compare"

    def killed(folder: Path, *rest: Any) -> Path:
        path = save_checkpoint(folder, *rest)
        if path.parts[-3:] == ("seed-1", "checkpoints", "step-000002"):
            raise Killed
        return path

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "save_checkpoint", killed)
        assert main(arguments(recipe, out)) == 1
    assert not (out / "compare.json").exists()
    assert main(arguments(recipe, out)) == 0
    return out, json.loads((out / "compare.json").read_text(encoding="utf-8"))


def starts(folder: Path) -> list[str | None]:
    return [event["resumed_from"] for event in RunDirectory(folder).read_events() if event["event"] == "start"]


def test_what_was_trained_is_not_trained_again(compared: tuple[Path, dict[str, Any]]) -> None:
    plain = compared[0] / "plain" / f"lr-{RATES[0]}"
    assert starts(plain / "seed-0") == [None]
    assert starts(plain / "seed-1") == [None, str(plain / "seed-1" / "checkpoints" / "step-000002")]


def test_the_document_has_every_arm_seed_and_rate(compared: tuple[Path, dict[str, Any]]) -> None:
    _, document = compared
    arms = document["arms"]
    assert list(arms) == ["base", "plain", "replay-10", "sketch", "plain-matched"]
    assert all(arm.keys() >= KEYS for arm in arms.values())
    assert arms["plain"]["gain"] == 1.0
    assert arms["base"]["probes"]["choices"]["score"] == 1.0
    assert 0 < arms["base"]["noise_floor"] <= 1
    assert {arm["noise_floor"] for arm in arms.values()} == {arms["base"]["noise_floor"]}
    assert [seed["seed"] for seed in arms["sketch"]["seeds"]] == [0, 1]
    assert len(document["sweep"]) == 3 * 2 * 2 + 2
    assert arms["plain-matched"]["steps"] == max(arm["steps"] for name, arm in arms.items() if name != "base")
    # On so few steps the larger rate is clearly better.
    assert arms["plain"]["learning_rate"] == float(RATES[1])
    low, high = arms["sketch"]["gain_interval"]
    assert low <= arms["sketch"]["gain"] <= high
    page = (compared[0] / "report.html").read_text(encoding="utf-8")
    assert "sketch: retention" in page
    assert "<svg" in page


def test_every_adapter_of_a_comparison_says_what_its_arm_kept(compared: tuple[Path, dict[str, Any]]) -> None:
    out, document = compared
    arm = document["arms"]["sketch"]
    for seed in ("seed-0", "seed-1"):
        folder = RunDirectory(out / "sketch" / f"lr-{arm['learning_rate']:g}" / seed).adapter
        kept = read_adapter_config(folder)["mlx_loopai"]["retention"]
        assert kept["measured on"] == "choices; the mean of 2 seeds"
        assert (kept["retention (GR), 1 for the base"], kept["worst probe"]) == (arm["retention"], arm["retention_min"])
        assert kept["gain (DG), 1 for plain LoRA"] == arm["gain"]
        assert f"{arm['gain']:g}"[:4] in (folder / "README.md").read_text(encoding="utf-8")


def test_the_gate_reads_the_folder(compared: tuple[Path, dict[str, Any]], command_line: Callable[..., Ended]) -> None:
    out, document = compared
    floors = ["--floor", "0", "--min-floor", "0", "--gain-floor", "0.1"]
    assert command_line("gate", out, "--arm", "sketch", *floors).status == 0
    low = document["arms"]["sketch"]["gain_interval"][0]
    floors[-1] = str((low + document["arms"]["sketch"]["gain"]) / 2)
    assert command_line("gate", out, "--arm", "sketch", *floors).status == 0
    certain = command_line("gate", out, "--arm", "sketch", *floors, "--certain")
    assert certain.status == (0 if float(floors[-1]) <= low else 1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--sweep", "penalty.strength=1,2"], "only train.learning_rate"),
        (["--sweep", "train.learning_rate=fast"], "expected numbers"),
        (["--sweep", "train.learning_rate=0"], "above 0"),
        (["--arms", "magic"], "no such arm"),
        (["--arms", str(RECIPES / "korean-creative.yaml")], "share their base"),
        (["--set", "validation=''"], "held-out domain rows"),
        (["--posthoc", "held_out.jsonl"], "8 of its rows"),
    ],
)
def test_wrong_use_is_said_before_any_work(
    recipe: Path,
    tmp_path: Path,
    command_line: Callable[..., Ended],
    monkeypatch: pytest.MonkeyPatch,
    change: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(recipe.parent)
    ended = command_line("compare", recipe, "--out", tmp_path / "out", *change)
    assert (ended.status, said in ended.stderr) == (2, True), ended.stderr
    assert not (tmp_path / "out").exists()


def test_a_rate_is_chosen_on_few_seeds_and_trained_on_all_and_every_arm_is_rescaled(
    recipe: Path, compared: tuple[Path, dict[str, Any]], tmp_path: Path, command_line: Callable[..., Ended]
) -> None:
    out = tmp_path / "compare"
    few = ["--arms", "plain", "--seeds", "2", "--sweep", f"train.learning_rate={','.join(RATES)}", "--sweep-seeds", "1"]
    rows = ["--posthoc", recipe.parent / "choice.jsonl", "--set", "forgetting.kept_floor=1"]
    options = [*few, *rows, "--suite", recipe.parent / "suite.yaml", "--out", out, "--json", "--quiet"]
    ended = command_line("compare", recipe, *options)
    assert ended.status == 0, ended.stderr
    arms = json.loads(ended.stdout)["arms"]
    assert len(list(out.glob("plain/lr-*/seed-*"))) == 3
    assert list(arms) == ["base", "plain", "plain+posthoc"]
    # A floor that nothing reaches takes what keeps most: the smallest scale.
    assert [seed["rescaling"] for seed in arms["plain+posthoc"]["seeds"]] == [{"first": 0.25, "last": 0.25}] * 2
    assert arms["plain"]["seeds"][0]["rescaling"] is None
    assert 0 < arms["plain+posthoc"]["gain"] < 1
    assert arms["plain+posthoc"]["step_s"] == arms["plain"]["step_s"]
    chosen = {path: path.stat().st_mtime_ns for path in out.rglob("rescaling.json")}
    assert len(chosen) == 2
    assert command_line("compare", recipe, *options).status == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("rescaling.json")} == chosen


def test_a_rate_at_which_an_arm_diverges_is_left_out(
    recipe: Path, tmp_path: Path, command_line: Callable[..., Ended]
) -> None:
    one = ["--arms", "plain", "--seeds", "1", "--suite", recipe.parent / "suite.yaml", "--json"]
    sweep = ["--sweep", f"train.learning_rate={RATES[1]},1e38"]
    ended = command_line("compare", recipe, *one, *sweep, "--out", tmp_path / "compare")
    assert ended.status == 0, ended.stderr
    document = json.loads(ended.stdout)
    assert [tried["learning_rate"] for tried in document["sweep"]] == [float(RATES[1])]
    assert "note: left out: the loss after training is" in ended.stderr


def test_a_forgetting_floor_does_not_discard_a_rate(
    recipe: Path, tmp_path: Path, command_line: Callable[..., Ended]
) -> None:
    """What stops a run because it forgets speaks of the rate, too, and says nothing about what the domain prefers."""
    floor = ["monitor_every=1", "kept_floor=1", "on_floor=rollback"]
    settings = [argument for option in floor for argument in ("--set", f"forgetting.{option}")]
    one = ["--arms", "plain", "--seeds", "1", "--suite", recipe.parent / "suite.yaml", "--json"]
    sweep = ["--sweep", f"train.learning_rate={','.join(RATES)}"]
    ended = command_line("compare", recipe, *one, *sweep, *settings, "--out", tmp_path / "compare")
    assert ended.status == 1
    assert "general ability: kept" in ended.stderr.splitlines()[-1]
    assert "left out" not in ended.stderr


def test_a_finished_run_is_rescaled_into_a_new_adapter(
    recipe: Path, compared: tuple[Path, dict[str, Any]], tmp_path: Path, command_line: Callable[..., Ended]
) -> None:
    run, out = compared[0] / "sketch" / f"lr-{RATES[1]}" / "seed-0", tmp_path / "tuned"
    before = (run / "adapter" / "adapters.safetensors").read_bytes()
    rows = ["--held-out", recipe.parent / "choice.jsonl", "--out", out, "--json", "--quiet"]
    ended = command_line("adapters", "tune", run, *rows, "--floor", "0")
    assert ended.status == 0, ended.stderr
    document = json.loads(ended.stdout)
    assert len(document["points"]) == 10
    whole = next(point for point in document["points"] if point["rescaling"] == {"first": 1.0, "last": 1.0})
    assert whole["gain"] == pytest.approx(1.0)
    assert document["chosen"]["gain"] == max(point["gain"] for point in document["points"])
    assert (run / "adapter" / "adapters.safetensors").read_bytes() == before
    said = json.loads((out / "adapter_config.json").read_text(encoding="utf-8"))["mlx_loopai"]
    assert said["rescaling"] == document["chosen"]["rescaling"]
    again = command_line("adapters", "tune", run, *rows)
    assert (again.status, "never overwritten" in again.stderr) == (2, True)


def test_the_frontier_of_a_run_starts_at_the_base_and_ends_at_its_result(
    recipe: Path, compared: tuple[Path, dict[str, Any]], command_line: Callable[..., Ended]
) -> None:
    run = compared[0] / "plain" / f"lr-{RATES[1]}" / "seed-0"
    adapter = (run / "adapter" / "adapters.safetensors").read_bytes()
    asked = ["--scales", "0,0.5,1", "--suite", recipe.parent / "suite.yaml", "--json", "--quiet"]
    ended = command_line("adapters", "frontier", run, *asked)
    assert ended.status == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found["noise_floor"] == compared[1]["arms"]["base"]["noise_floor"]
    base, half, whole = found["points"]
    assert (base["divergence"], base["retention"]) == (pytest.approx(0, abs=1e-6), 1.0)
    assert base["gain"] == pytest.approx(0, abs=1e-6)
    assert 0 < half["divergence"] < whole["divergence"]
    summary = next(event for event in RunDirectory(run).read_events() if event["event"] == "done")
    assert whole["gain"] == pytest.approx(summary["validation_first"] - summary["validation_last"], rel=1e-3)
    assert max(half["retention"], whole["retention"]) < 1
    assert (run / "adapter" / "adapters.safetensors").read_bytes() == adapter
    wrong = command_line("adapters", "frontier", run, "--scales", "much")
    assert (wrong.status, "--scales" in wrong.stderr) == (2, True)


def test_the_frontier_of_the_short_form_takes_the_rows_that_the_run_held_out(
    recipe: Path, tmp_path: Path, command_line: Callable[..., Ended]
) -> None:
    given = ["--model", "nano", "--data", recipe.parent / "choice.jsonl", "--set", "train.max_steps=2"]
    for share in (0.3, 0.0):
        run = tmp_path / f"run-{share}"
        trained = command_line(
            "train", "--plain", *given, "--set", f"validation_share={share}", "--out", run, "--quiet"
        )
        assert trained.status == 0, trained.stderr
        ended = command_line("adapters", "frontier", run, "--scales", "1", "--limit", "4", "--json", "--quiet")
        if not share:
            assert (ended.status, "held out no rows" in ended.stderr) == (2, True)
            continue
        assert ended.status == 0, ended.stderr
        (whole,) = json.loads(ended.stdout)["points"]
        done = next(event for event in RunDirectory(run).read_events() if event["event"] == "done")
        assert whole["gain"] == pytest.approx(done["validation_first"] - done["validation_last"], rel=1e-2, abs=1e-4)
