"""Typed documents: what is written is read back, what is wrong is named, and what older versions wrote still reads."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from mlx_loopai.errors import InputError
from mlx_loopai.runs.directory import RunDirectory
from mlx_loopai.runs.documents.comparison import Comparison, TriedRate
from mlx_loopai.runs.documents.evaluation import EvaluatedTask, Evaluation, LostAnswer, ModelScores, TextLikelihood
from mlx_loopai.runs.documents.events import steps_of
from mlx_loopai.runs.documents.result import read_result
from mlx_loopai.runs.documents.run import read_run, run_of
from mlx_loopai.runs.documents.summary import Summary
from tests.unit.report.pages import kept, probe, steps

RESULTS = Path(__file__).parents[3] / "docs" / "results"
EVALUATION = Evaluation(
    suite="general",
    model="Qwen/Qwen2.5-0.5B-Instruct",
    adapter="runs/first/adapter",
    retention=0.98,
    retention_min=0.95,
    retention_interval=(0.96, 1.0),
    right_to_wrong=7,
    wrong_to_right=3,
    probes={"code": EvaluatedTask(base=0.5, score=0.25, lost=(LostAnswer(prompt="p", base="b", tuned="t"),))},
    base=ModelScores(scores={"code": 0.5}, broken={"code": {"json": 1}}),
    nll={"wiki": TextLikelihood(base=1.0, score=2.0, perplexity=7.4)},
)
DONE = {
    "run": "runs/first",
    "steps": 3,
    "loss_first": 4.0,
    "loss_last": 2.5,
    "validation_first": None,
    "validation_last": None,
    "supervised_tokens": 600,
    "tokens_per_s": 12.0,
    "real_token_share": 0.97,
    "supervised_token_share": 0.6,
    "peak_bytes": 3 << 30,
    "plan_bytes": 4 << 30,
    "resumed_from": None,
    "skipped_steps": 0,
    "train_s": 5.0,
}


def comparison_of(document: Any) -> Comparison:
    return Comparison.from_json(document, "demo.json")


def one_arm(values: dict[str, Any]) -> Any:
    return comparison_of({"arms": {"plain": {"retention": None, "retention_min": None} | values}}).arms["plain"]


def test_what_is_written_is_read_back(document: dict[str, Any], tmp_path: Path) -> None:
    comparison = comparison_of(
        document | {"sweep": [{"arm": "a", "learning_rate": 1e-4, "seed": 0, "domain_score": 1}]}
    )
    assert comparison.sweep == (TriedRate(arm="a", learning_rate=1e-4, seed=0, domain_score=1.0),)
    for written in (EVALUATION, comparison, Summary(**DONE)):
        assert type(written).from_json(json.loads(json.dumps(written.to_json())), "x") == written
        path = tmp_path / "a.json"
        written.write(path)
        assert type(written).read(path) == written
        assert json.loads(path.read_text(encoding="utf-8"))["format"] == 1


def test_every_key_is_written(document: dict[str, Any]) -> None:
    for written in (EVALUATION, comparison_of(document), Summary(**DONE)):
        assert set(written.to_json()) == {"format", *(field.name for field in fields(written))}


def test_a_figure_that_is_not_finite_is_null(document: dict[str, Any]) -> None:
    document["arms"]["plain"] |= {"gain": math.nan, "domain_score": -math.inf}
    document["arms"]["plain"]["curve"][3] |= {"loss": math.nan}
    plain = comparison_of(document).arms["plain"]
    assert (plain.gain, plain.domain_score, plain.curve[3].loss) == (None, None, None)
    assert Evaluation(retention=math.nan, retention_min=0.5).to_json()["retention"] is None


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ([], "demo.json: expected a table, got a list"),
        ({"n": 3, "bleu": 0.1}, "demo.json: arms is missing; unknown key n"),
        ({"arms": {}}, "arms: Dictionary should have at least 1 item"),
        ({"arms": ["plain"]}, "arms: expected a table, got a list"),
        ({"arms": {"plain": 3}}, "arms.plain: expected a table, got a number"),
        ({"arms": {"plain": {}}}, "arms.plain.retention is missing; arms.plain.retention_min is missing"),
        (
            {"arms": {"plain": kept(1, 1, 1) | {"retentoin": 1}}},
            "unknown key arms.plain.retentoin; did you mean retention?",
        ),
        ({"arms": {"plain": kept(1, 1, 1) | {"probes": {"code": 1}}}}, "probes.code: expected a table, got a number"),
        ({"arms": {"plain": kept(1, 1, 1) | {"curve": {}}}}, "arms.plain.curve: expected a list, got a table"),
        ({"arms": {"plain": kept(1, 1, 1) | {"examples": ["a"]}}}, "examples.0: expected a table, got a text"),
        ({"arms": {"plain": kept(1, 1, 1) | {"gain": "0.9"}}}, "arms.plain.gain: expected a number, got a text"),
        ({"arms": {"plain": kept(1, 1, 1) | {"gain": True}}}, "arms.plain.gain: expected a number, got true or false"),
        ({"arms": {"plain": kept(1, 1, 1) | {"a\nb": 1}}}, r"unknown key 'arms.plain.a\nb'"),
        ({"arms": {"plain": kept(1, 1, 1)}, "format": 2}, "format 2 is not one that this mlx-loopai reads (up to 1)"),
        ({"arms": {"plain": kept(1, 1, 1)}, "format": "x"}, "format 'x'"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(broken: Any, said: str) -> None:
    with pytest.raises(InputError) as failure:
        comparison_of(broken)
    message = str(failure.value)
    assert message.startswith("demo.json: ")
    assert said in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", ":1: not JSON"),
        (b'{"arms": {\n"a": }', ":2: not JSON"),
        (b'{"a": "\xff"}', ": byte 7 is not UTF-8"),
        (b"[" * 100_000, ": nested too deeply"),
        (b"[1]", ": holds neither a retention nor arms"),
    ],
)
def test_a_broken_file_is_named_with_its_line(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as failure:
        read_result(path)
    assert f"{path}{said}" in str(failure.value)


@pytest.mark.parametrize("name", ["demo", "arms", "real"])
def test_committed_results_read_and_keep_every_figure(name: str) -> None:
    path = RESULTS / f"{name}.json"
    committed = json.loads(path.read_text(encoding="utf-8"))
    read = read_result(path)
    assert isinstance(read, Comparison)
    written = read.to_json()
    assert written.keys() >= committed.keys()
    for arm_name, figures in committed["arms"].items():
        again = written["arms"][arm_name]
        for key, value in figures.items():
            if key == "probes":
                assert all(again[key][task].items() >= scores.items() for task, scores in value.items())
            elif key == "examples":
                assert all(one.items() >= said.items() for one, said in zip(again[key], value, strict=True))
            elif key == "curve":
                assert [step["loss"] for step in again[key]] == [step["loss"] for step in value]
            else:
                assert again[key] == value, (arm_name, key)


def test_an_evaluation_that_an_older_version_wrote(tmp_path: Path) -> None:
    """Without `format`, `suite`, `nll` and the keys of a probe that only a tuned model has."""
    scores = {"scores": {"sums": 0.9}, "broken": {"sums": {}}, "nll_per_token": 2.0, "perplexity": 7.4, "purity": 1.0}
    old = {
        "model": "nano",
        "adapter": None,
        "base": scores,
        "tuned": None,
        **dict.fromkeys(("retention", "retention_min", "retention_interval", "right_to_wrong", "wrong_to_right")),
        "probes": {"sums": {"base": 0.9, "score": 0.9, "n": 240, "chance": 0.05}},
        "perplexity": 7.4,
        "purity": 1.0,
    }
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps(old), encoding="utf-8")
    read = read_result(path)
    assert isinstance(read, Evaluation)
    assert (read.base.perplexity, read.probes["sums"].n, read.retention) == (7.4, 240, None)


def test_scores_of_lm_eval_are_no_evaluation(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    scores = {"suite": "lm-eval:arc_easy", "base": {"arc_easy": {"acc,none": 0.5}}, "tuned": None, "retention": None}
    path.write_text(json.dumps(scores), encoding="utf-8")
    with pytest.raises(InputError, match=r"evaluation\.json: holds scores of lm-eval's tasks.*another `suite`"):
        read_result(path)


def test_a_summary_of_an_older_or_a_newer_version() -> None:
    event = {"event": "done", "time": 1.0, **DONE}
    assert Summary.from_json(event, "x").mlx_lm_token_share is None
    assert Summary.from_json(event | {"new": 1}, "x").steps == 3
    del event["steps"]
    with pytest.raises(InputError, match=r"x: steps is missing"):
        Summary.from_json(event, "x")


def test_the_worst_task_is_measured_above_chance() -> None:
    # 0.30 of 0.35 is a smaller share above a chance of 0.25 than 0.5 of 0.9 above 0.05.
    hard = probe(0.35, 0.27) | {"chance": 0.25}
    worst = one_arm({"probes": {"hard": hard, "easy": probe(0.9, 0.5)}}).worst_task
    assert worst[0] == "hard"


def test_a_task_that_does_not_count_is_not_the_worst() -> None:
    uncounted = probe(0.3, 0.1) | {"counted": False}
    arm_ = one_arm({"probes": {"guess": uncounted, "easy": probe(0.9, 0.5)}})
    assert arm_.worst_task[0] == "easy"
    assert arm_.gate_figures.worst_task == "easy, 0.900 -> 0.500"
    assert one_arm({}).worst_task is None


def test_of_a_repeated_step_the_last_counts() -> None:
    again = steps(8)[4:]
    for row in again:
        row["loss"] = 0.5
    read = steps_of([*steps(6), *again], "events.jsonl")
    assert [step.step for step in read] == list(range(1, 9))
    assert [step.loss for step in read[4:]] == [0.5] * 4


def test_a_run_that_started_over_forgets_the_abandoned_try(events: list[dict[str, Any]]) -> None:
    abandoned = [{"event": "start", "resumed_from": None, "total_steps": 999}, *steps(100)]
    read = run_of("runs/a", [*abandoned, *events])
    assert (len(read.steps), read.total_steps) == (60, 60)
    assert read.resumed_from == ()


def test_a_run_that_went_on_keeps_its_first_part_and_its_first_summary(events: list[dict[str, Any]]) -> None:
    start, *trained, done = events
    resumed = {"event": "start", "resumed_from": "checkpoints/30", "total_steps": 60}
    read = run_of("runs/a", [start, *trained[:35], resumed, *trained[30:], done, resumed, done | {"tokens_per_s": 0.0}])
    assert len(read.steps) == 60
    assert read.resumed_from == ("checkpoints/30", "checkpoints/30")
    assert read.summary is not None
    assert read.summary.tokens_per_s == 120.0


def test_a_folder_is_read_as_far_as_it_has_come(tmp_path: Path, events: list[dict[str, Any]]) -> None:
    run = RunDirectory(tmp_path)
    assert read_run(run).steps == ()
    run.events.write_text("\n".join(json.dumps(event) for event in events[:20]), encoding="utf-8")
    EVALUATION.write(run.path / "evaluation.json")
    read = read_run(run)
    assert (len(read.steps), read.summary, read.evaluation) == (19, None, EVALUATION)
    run.events.write_text('{"event": "step", "step": 1, "loss": "low"}\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"events\.jsonl: loss: expected a number, got a text"):
        read_run(run)
