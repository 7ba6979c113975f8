from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlx_loopai.config import LoraOptions
from mlx_loopai.errors import InputError
from mlx_loopai.models.adapters import save_adapter
from mlx_loopai.models.load import build_model
from mlx_loopai.models.lora import apply_lora
from mlx_loopai.report.assemble import report_of, write_page
from mlx_loopai.report.pages.run import run_page
from mlx_loopai.runs.directory import RunDirectory
from mlx_loopai.runs.documents.evaluation import Evaluation
from mlx_loopai.runs.documents.run import gate_of, run_of
from mlx_loopai.runs.documents.verdict import JudgedSummary
from tests.unit.report.pages import Page, coordinates, kept, parse
from tools import nano

SETTINGS = "model: nano\nforgetting: {floor: 0.97, gain_floor: 0.0}\n"


def page_of(events: list[dict[str, Any]], settings: str = SETTINGS, evaluation: Any = None) -> Page:
    read = Evaluation.from_json(evaluation, "evaluation.json") if evaluation else None
    page = parse(run_page(run_of("runs/first", events, settings, read)))
    coordinates(page)
    return page


def test_a_finished_run(events: list[dict[str, Any]]) -> None:
    page = page_of(events)
    assert "has not been measured" in page.text
    assert "mlx-loopai evaluate --adapter runs/first/adapter" in page.text
    assert "4.0000 → 2.5000 nats per token" in page.text
    assert "peak 3.0 GiB, 0.75x of the planned 4.0 GiB" in page.text
    assert "held-out" not in page.text
    assert "Phases: 1 one · 2 two · 3 three" in page.text
    assert len(page.tags("svg")) == 4
    assert [section["id"] for section in page.tags("section")] == [
        "verdict",
        "summary",
        "curves",
        "settings",
        "reproduce",
    ]


def test_memory_above_the_plan_is_said(events: list[dict[str, Any]]) -> None:
    events[-1]["peak_bytes"] = 5 << 30
    page = page_of(events)
    assert "more than planned" in page.text
    assert "over" in page.classes()


def test_a_run_that_has_not_ended(events: list[dict[str, Any]]) -> None:
    page = page_of(events[:20])
    assert "The run has not ended." in page.text
    assert "19 of 60" in page.text
    assert "The run has not ended." in page_of([]).text


def test_an_evaluated_run_gets_the_gates_word_with_its_own_floor(events: list[dict[str, Any]]) -> None:
    failing = page_of(events, evaluation=kept(0.96, 0.95, 0.9))
    assert "does not pass the gate" in failing.text
    assert "retention 0.9600 is below 0.97" in failing.text
    assert "passes the gate" in page_of(events, "", kept(0.96, 0.95, 0.9)).text
    assert "probes" in {section["id"] for section in failing.tags("section")}


def test_answers_that_were_lost_stand_side_by_side(events: list[dict[str, Any]]) -> None:
    evaluation = kept(0.96, 0.95, None) | {"base": {"perplexity": 8.5, "purity": 0.99}, "perplexity": 9.25}
    lost = {"prompt": "태국의 수도는?", "base": "방콕입니다.", "tuned": '{"text": ["비가', "broken": "json"}
    evaluation["probes"]["facts_ko"]["lost"] = [lost | {"prompt": f"{number}?"} for number in range(5)]
    evaluation["probes"]["code"] |= {"counted": False}
    page = page_of(events, SETTINGS, evaluation)
    assert page.text.count("방콕입니다.") == page.text.count('{"text": ["비가') == 3
    assert "8.50 → 9.25" in page.text
    assert "0.990 → 0.970" in page.text
    assert "not counted" in page.text


def test_readings_on_the_way_are_drawn(events: list[dict[str, Any]]) -> None:
    readings = [{"event": "monitor", "step": step, "kept": 1 - step / 100} for step in (10, 20)]
    readings += [{"event": "validation", "step": step, "nll_per_token": 3 - step / 100} for step in (10, 20)]
    page = page_of([*events[:-1], *readings, events[-1]])
    assert "General answers kept" in page.text
    assert "0.8 to 0.9, last 0.8" in page.text
    assert "Loss on held-out rows" in page.text
    assert "2.8~2.9, 마지막 2.8" in page.text


def test_the_rows_and_the_adapter_of_a_folder(tmp_path: Path, events: list[dict[str, Any]]) -> None:
    """Audited and measured where they still are; a report without them all the same."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": "글?", "completion": '{"text": ["비가 왔다."]}'}) + "\n", encoding="utf-8")
    (tmp_path / "events.jsonl").write_text("\n".join(json.dumps(event) for event in events))
    (tmp_path / "resolved.yaml").write_text(f"sources: {{mine: {{path: {rows}, category: creative}}}}\n")
    model = build_model({**nano.CONFIG, "vocab_size": 40, "hidden_size": 16, "intermediate_size": 16})
    options = LoraOptions(rank=2)
    for layer in apply_lora(model, options, seed=0).values():
        layer.lora_b = layer.lora_b + 1
    save_adapter(tmp_path / "adapter", model, options, "0" * 64)
    page = parse(report_of(tmp_path).html)
    assert "1 of 1 rows are answered in JSON" in page.text
    assert {"layers", "data"} <= {section["id"] for section in page.tags("section")}
    rows.unlink()
    (tmp_path / "adapter" / "adapters.safetensors").unlink()
    assert not {"layers", "data"} & {section["id"] for section in parse(report_of(tmp_path).html).tags("section")}


def test_the_advice_names_the_model(events: list[dict[str, Any]]) -> None:
    assert "evaluate --model 'my model' --adapter" in page_of(events, "model: my model\n").text


@pytest.mark.parametrize("settings", ["forgetting: {floor: high}", "forgetting: {floor: .nan}", "[", "- 1"])
def test_floors_that_cannot_be_read_are_no_floors_by_default(settings: str) -> None:
    with pytest.raises(InputError, match=r"runs/a/resolved\.yaml: forgetting: the gate's floors cannot be read"):
        gate_of(settings, "runs/a/resolved.yaml")


def test_floors_of_settings_that_another_version_wrote() -> None:
    assert gate_of("lora: {old: 1}\nforgetting: {floor: 0.5, new: 3}\n", "resolved.yaml").floor == 0.5
    assert gate_of("", "resolved.yaml").floor == 0.95


def test_a_folder_is_read_whole(tmp_path: Path, events: list[dict[str, Any]]) -> None:
    resumed = {"event": "start", "resumed_from": "step-1", "versions": {"mlx": "mlx-of-the-last-start"}}
    lines = [json.dumps(event) for event in [*events, resumed]]
    # A crash cut the last line short, and JSON of Python may hold NaN.
    (tmp_path / "events.jsonl").write_text("\n".join([*lines, '{"event": "step", "loss": NaN, "step": 61}', '{"ev']))
    (tmp_path / "resolved.yaml").write_text(SETTINGS)
    (tmp_path / "run.json").write_text(json.dumps({"base_hash": "ab12", "config_digest": "cd34", "version": "9.9"}))
    (tmp_path / "evaluation.json").write_text(json.dumps(kept(0.99, 0.98, 0.9)))
    report = report_of(tmp_path)
    assert "mlx-of-the-last-start" in parse(report.html).text
    assert (report.kind, list(report.passes.values())) == ("run", [True])
    page = parse(report.html)
    assert "ab12" in page.text
    assert f"{tmp_path}/resolved.yaml" in page.text


def test_the_verdict_shows_what_was_learnt_beside_what_was_kept(tmp_path: Path, events: list[dict[str, Any]]) -> None:
    (tmp_path / "events.jsonl").write_text("\n".join(map(json.dumps, events)))
    (tmp_path / "evaluation.json").write_text(json.dumps(kept(0.99, 0.98, None)))
    assert "learnt on held-out rows" not in report_of(tmp_path).html
    done = {name: value for name, value in events[-1].items() if name not in ("event", "time")}
    JudgedSummary(**done, gain=0.2, gain_interval=(0.1, 0.3), verdict="pass").write(RunDirectory(tmp_path).verdict)
    html = report_of(tmp_path).html
    verdict = html[html.index('<section id="verdict"') : html.index('<section id="summary"')]
    assert "<b>0.200</b>" in verdict
    assert "nats a token learnt on held-out rows" in verdict


def test_writing_leaves_the_old_page_when_it_fails(tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    write_page("old", out)
    with pytest.raises(UnicodeEncodeError):
        write_page("new \ud800", out)
    assert out.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_writing_to_a_wrong_place(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        write_page("a", tmp_path)
    with pytest.raises(InputError, match="create it first"):
        write_page("a", tmp_path / "none" / "report.html")
