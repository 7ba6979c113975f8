"""Whole runs on judged answers: they learn, rehearse beside it, go on bit for bit, and refuse what does not belong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlx_loopai.config import RunConfig, TrainPath, load_config
from mlx_loopai.config.shipped import shipped_recipe
from mlx_loopai.errors import InputError
from mlx_loopai.runs.context import RunContext
from mlx_loopai.runs.directory import RunDirectory
from mlx_loopai.training.run import train
from tests.unit.conftest import Heard
from tests.unit.training.test_run import adapter, check_resumes_bit_for_bit

TOPICS = ("바다", "산", "고양이", "편지", "기차", "눈", "시장", "학교", "강", "별")


def pair(topic: str, number: int = 0) -> dict[str, Any]:
    return {
        "prompt": f"{topic} 이야기를 써 주세요.",
        "chosen": f"{topic} 옆에 작은 집이 있었다." + " 그래서 좋았다." * (number % 3),
        "rejected": f"{topic} is good. 今天." + " so nice" * (number % 2),
    }


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write(tmp_path / "pairs.jsonl", [pair(topic, number) for number, topic in enumerate(TOPICS)])


def judged_run(model: Path, path: Path, options: dict[str, Any]) -> RunConfig:
    """A short run on the judged rows in `path`, a fifth of them held out."""
    values = {
        "train__rows_per_step": 4, "train__learning_rate": 5e-3, "lora__rank": 2, "validation_share": 0.2,
    } | options  # fmt: skip
    overrides = tuple(f"{name.replace('__', '.')}={json.dumps(value)}" for name, value in values.items())
    return load_config(None, overrides, {"model": str(model), "sources": {"taste": {"path": str(path)}}})


@pytest.fixture
def configure(
    tiny_model_folder: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., RunConfig]:
    monkeypatch.setenv("MLX_LOOPAI_CACHE", str(tmp_path / "cache"))

    def build(path: Path = pairs, **options: Any) -> RunConfig:
        return judged_run(tiny_model_folder, path, {"preference__objective": "dpo"} | options)

    return build


def test_held_out_pairs_are_won_and_the_run_says_so(
    configure: Callable[..., RunConfig], tmp_path: Path, heard: Heard
) -> None:
    summary = train(configure(train__epochs=6, train__validate_every=6), tmp_path / "run", heard)
    assert summary.pair_accuracy == 1.0
    assert summary.margin is not None
    assert summary.margin > 0
    assert summary.chosen_logprob_change is not None
    assert summary.chosen_logprob_change > 0
    events = RunDirectory(tmp_path / "run").read_events()
    readings = [event["step"] for event in events if event["event"] == "preference"]
    assert readings == [6, 12, 12]
    margins = [event["margin"] for event in events if event["event"] == "step"]
    assert margins[0] == pytest.approx(0, abs=1e-3)
    assert margins[-1] > 0
    notes = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert "pair_accuracy" in json.dumps(notes)
    lengths = [event for event in events if event["event"] == "answer_lengths"]
    assert len(lengths) == 1
    for name in ("chosen_tokens", "rejected_tokens", "answer_tokens", "base_answer_tokens"):
        assert notes["mlx_loopai"]["figures"][name] == lengths[0][name] == vars(summary)[name] > 0


def test_the_base_reads_every_pair_once(configure: Callable[..., RunConfig], tmp_path: Path, heard: Heard) -> None:
    for name in ("one", "two"):
        train(configure(train__max_steps=1), tmp_path / name, heard)
    assert heard.stages.count(("the base on judged answers", 16)) == 1
    assert heard.stages.count(("the base on judged answers", 4)) == 1
    assert adapter(tmp_path / "one") == adapter(tmp_path / "two")


def test_a_stopped_run_goes_on_bit_for_bit_with_rehearsal_in_its_steps(
    configure: Callable[..., RunConfig], data_files: dict[str, Path], tmp_path: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch,
    path: TrainPath,
) -> None:  # fmt: skip
    config = configure(
        train__epochs=2, train__path=path, general=str(data_files["general"]), replay__source="records",
        replay__share=0.4, replay__loss_share=0.3, replay__objective="kl", forgetting__budget=0.05,
    )  # fmt: skip
    check_resumes_bit_for_bit(config, tmp_path, heard, monkeypatch)


@pytest.mark.parametrize("dora", [False, True])
def test_a_run_that_goes_on_from_an_adapter_is_compared_with_it(
    configure: Callable[..., RunConfig], data_files: dict[str, Path], tmp_path: Path, heard: Heard, dora: bool
) -> None:
    first = configure(
        data_files["tale"], preference__objective="none", lora__rank=3, lora__dora=dora, lora__dropout=0.1
    )
    told = train(first, tmp_path / "tales", heard)
    before = configure(lora__rank=3, lora__dora=dora, train__max_steps=1)
    after = configure(lora__start=str(tmp_path / "tales"), train__epochs=6, train__validate_every=6)
    train(before, tmp_path / "base", heard)
    summary = train(after, tmp_path / "taste", heard)
    assert summary.loss_first != pytest.approx(told.loss_first)
    opened = RunDirectory(tmp_path / "taste").read_events()
    margins = [event["margin"] for event in opened if event["event"] == "step"]
    assert margins[0] == pytest.approx(0, abs=1e-3)  # the answers are compared with what they were to the start
    assert summary.pair_accuracy == 1.0
    config = json.loads((tmp_path / "taste" / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    form = config["mlx_loopai"]["lora"]
    assert (form["rank"], form["dora"], form["dropout"]) == (3, dora, 0.0)
    assert "start" not in form  # a path of this machine
    for name in ("base", "taste"):  # one reading of the training pairs by the base, one by the start
        assert any(
            event.get("name") == "the base on judged answers" for event in RunDirectory(tmp_path / name).read_events()
        )


@pytest.mark.parametrize("objective", ["kto", "apo"])
def test_labelled_answers_are_learnt(
    configure: Callable[..., RunConfig], tmp_path: Path, heard: Heard, objective: str
) -> None:
    votes = [
        {"prompt": row["prompt"], "completion": row[name], "label": name == "chosen"}
        for row in map(pair, TOPICS)
        for name in ("chosen", "rejected")
    ]
    path = write(tmp_path / "votes.jsonl", votes)
    summary = train(configure(path, preference__objective=objective, train__epochs=4), tmp_path / "run", heard)
    assert summary.pair_accuracy is not None
    assert summary.pair_accuracy > 0.5
    with pytest.raises(InputError, match=r"votes\.jsonl:1: a single answer with a label.*set it to apo or kto"):
        train(configure(path), tmp_path / "other", heard)


def test_pairs_are_held_out_by_their_prompt(configure: Callable[..., RunConfig], tmp_path: Path) -> None:
    rows = [row for topic in TOPICS for row in (pair(topic, 0), pair(topic, 1), pair(topic, 2))]
    config = configure(write(tmp_path / "many.jsonl", rows), validation_share=0.3)
    found = RunContext.open(config, RunDirectory(tmp_path / "run"), Heard()).rows
    prompts = [
        {row.ids[: row.supervised.argmax()].tobytes() for row in part}
        for part in (found.sources["taste"], found.judged)
    ]
    assert len(found.judged) == 9  # the three answers to each of three prompts: three tenths of the rows
    assert prompts[1]
    assert not prompts[0] & prompts[1]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"preference__objective": "none"}, r"pairs\.jsonl:1: .*learn from them with `preference\.objective`"),
        ({"train__max_tokens": 8}, r"pairs\.jsonl:1: \d+ tokens are more than the 8 of a row"),
        ({"lora__dropout": 0.1}, "set lora.dropout to 0"),
        ({"train__z_loss": 0.1}, "set train.z_loss to 0"),
        ({"selection__kind": "stm"}, "set selection.kind to none"),
        ({"preference__objective": "orpo", "preference__variant": "ipo"}, "variant ipo is one of dpo"),
        ({"preference__objective": "kto", "lora__start": "x"}, "lora.start begins away from it; use apo"),
        ({"penalty__kind": "kronecker", "lora__start": "x"}, "lora.start begins away from it; use kl"),
        ({"train__method": "full", "lora__start": "x"}, "has no low-rank factors, which lora.start"),
        ({"lora__start": "no/such"}, "no/such: no such folder"),
    ],
)
def test_what_does_not_go_with_pairs_is_refused(
    configure: Callable[..., RunConfig], tmp_path: Path, heard: Heard, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        train(configure(**options), tmp_path / "run", heard)


def test_an_objective_without_judged_rows_is_refused(
    configure: Callable[..., RunConfig], data_files: dict[str, Path], tmp_path: Path, heard: Heard
) -> None:
    with pytest.raises(InputError, match=r"preference\.objective dpo: none of taste holds a pair"):
        train(configure(data_files["tale"]), tmp_path / "run", heard)


def test_the_shipped_recipe_learns_stories_and_then_taste(
    tiny_model_folder: Path, pairs: Path, tmp_path: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLX_LOOPAI_CACHE", str(tmp_path / "cache"))
    tales = [{"prompt": f"{topic} 동화를 써 주세요.", "completion": f"{topic}에 토끼가 살았다."} for topic in TOPICS]
    files = {"creative": write(tmp_path / "creative.jsonl", tales), "pairs": pairs}
    overrides = [f"sources.{name}.path={json.dumps(str(path))}" for name, path in files.items()]
    overrides += ["replay.max_prompts=4", "replay.answer_tokens=4", "lora.rank=2", f"model={tiny_model_folder}"]
    config = load_config(shipped_recipe("korean-preferences"), tuple(overrides), {})
    summary = train(config, tmp_path / "run", heard)
    steps = [event for event in RunDirectory(tmp_path / "run").read_events() if event["event"] == "step"]
    taught = [step["phase"] for step in steps]
    assert taught == sorted(taught, key=["stories", "taste"].index)
    assert {step["phase"]: step["margin"] is not None for step in steps} == {"stories": False, "taste": True}
    assert summary.pair_accuracy is not None
