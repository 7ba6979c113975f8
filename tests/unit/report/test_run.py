from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlx_loopai.errors import InputError
from mlx_loopai.report.documents import run_of
from mlx_loopai.report.reading import report_of, write_page
from mlx_loopai.report.run import gate_of, run_page
from tests.unit.report.pages import Page, arm, coordinates, parse

SETTINGS = "model: nano\nforgetting: {floor: 0.97, gain_floor: 0.0}\n"


def page_of(events: list[dict[str, Any]], settings: str = SETTINGS, evaluation: Any = None) -> Page:
    page = parse(run_page(run_of("runs/first", events, settings, evaluation, {"mlx": "0.32.2"}, "mlx-loopai train x")))
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
    failing = page_of(events, evaluation=arm(0.96, 0.95, 0.9))
    assert "does not pass the gate" in failing.text
    assert "retention 0.9600 is below 0.97" in failing.text
    assert "passes the gate" in page_of(events, "", arm(0.96, 0.95, 0.9)).text
    assert "probes" in {section["id"] for section in failing.tags("section")}


def test_answers_that_were_lost_stand_side_by_side(events: list[dict[str, Any]]) -> None:
    evaluation = arm(0.96, 0.95, None) | {"base": {"perplexity": 8.5, "purity": 0.99}, "perplexity": 9.25}
    lost = {"prompt": "태국의 수도는?", "base": "방콕입니다.", "tuned": '{"text": ["비가', "broken": "json"}
    evaluation["probes"]["facts_ko"]["lost"] = [lost | {"prompt": f"{number}?"} for number in range(5)]
    evaluation["probes"]["code"] |= {"counted": False}
    page = page_of(events, SETTINGS, evaluation)
    assert page.text.count("방콕입니다.") == page.text.count('{"text": ["비가') == 3
    assert "8.50 → 9.25" in page.text
    assert "0.990 → 0.970" in page.text
    assert "not counted" in page.text


def test_the_advice_names_the_model(events: list[dict[str, Any]]) -> None:
    assert "evaluate --model 'my model' --adapter" in page_of(events, "model: my model\n").text


def test_the_gate_of_broken_settings_is_the_default() -> None:
    assert gate_of(run_of("r", [], "forgetting: {floor: high}")).floor == 0.95
    assert gate_of(run_of("r", [], "forgetting: {floor: .nan}")).floor == 0.95


def test_a_folder_is_read_whole(tmp_path: Path, events: list[dict[str, Any]]) -> None:
    lines = [json.dumps(event) for event in events]
    # A crash cut the last line short, and JSON of Python may hold NaN.
    (tmp_path / "events.jsonl").write_text("\n".join([*lines, '{"event": "step", "loss": NaN, "step": 61}', '{"ev']))
    (tmp_path / "resolved.yaml").write_text(SETTINGS)
    (tmp_path / "run.json").write_text(json.dumps({"base_hash": "ab12", "config_digest": "cd34", "version": "9.9"}))
    (tmp_path / "evaluation.json").write_text(json.dumps(arm(0.99, 0.98, 0.9)))
    report = report_of(tmp_path)
    assert (report.kind, list(report.passes.values())) == ("run", [True])
    page = parse(report.html)
    assert "ab12" in page.text
    assert f"{tmp_path}/resolved.yaml" in page.text


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
