"""The judge of bench/sampling.py: what it is shown, and what its choices count."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mlx_loopai.evaluation.endpoint import Endpoint
from mlx_loopai.evaluation.pairwise import Judgements
from mlx_loopai.evaluation.rubric import NAMES, answer_form, read_judgement
from mlx_loopai.evaluation.text_metrics import Generated
from tests.bench_programs import bench_program
from tests.unit.evaluation.judges import Reply, choice, judge_server


@pytest.fixture(scope="module")
def sampling() -> ModuleType:
    return bench_program("sampling")


def longer(body: dict[str, Any]) -> str:
    """The judgement of a judge that prefers the longer text."""
    shown = body["messages"][1]["content"]
    first, second = (shown.split(f"<글 {n} ")[1].split(f"</글 {n} ")[0] for n in (1, 2))
    return choice("1" if len(first) > len(second) else "2")


def test_the_form_holds_what_a_judgement_needs_and_nothing_else() -> None:
    schema = answer_form()["json_schema"]["schema"]
    for value in ("1", "2", "tie"):
        assert set(read_judgement(json.dumps(dict.fromkeys(schema["required"], value))).choices) == set(NAMES)
    assert {tuple(one["enum"]) for one in schema["properties"].values()} == {("1", "2", "tie")}
    assert set(schema["properties"]) == set(NAMES)
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize(
    ("judge", "wins", "ties", "agreement"), [(longer, 2, 0, 1.0), (lambda body: choice("1"), 0, 3, 0.0)]
)
def test_a_choice_that_follows_the_order_is_a_tie(
    sampling: ModuleType, tmp_path: Path, judge: Any, wins: int, ties: int, agreement: float
) -> None:
    texts = [Generated(text, str(place)) for place, text in enumerate(("긴 글입니다", "또 긴 글입니다", "글"))]
    others = [Generated("짧다", text.prompt) for text in texts]
    with judge_server(lambda body, number: Reply(judge(body))) as served:
        endpoint = Endpoint(served.url, "심판", fields={"response_format": answer_form()})
        found = sampling.judged(texts, others, endpoint, Judgements(tmp_path / "kept.jsonl", "심판"))
    assert len(served.requests) == 6
    assert all(body["response_format"]["type"] == "json_schema" for body in served.requests)
    assert (found["wins"], found["ties"], found["agreement"]) == (wins, ties, agreement)
    assert found["win_rate"] == (wins + ties / 2) / 3


def test_the_check_shows_answers_to_other_requests(sampling: ModuleType) -> None:
    moved = sampling.of_other_requests([Generated(text, f"{text}?") for text in "가나다"])
    assert [(one.prompt, one.text) for one in moved] == [("가?", "나"), ("나?", "다"), ("다?", "가")]


def test_settings_and_judge_in_one_file(
    sampling: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sampling, "PROMPTS", sampling.PROMPTS[:2])
    out = tmp_path / "found.json"
    with judge_server(lambda body, number: Reply(longer(body))) as served:
        command = ["sampling.py", "--model", "nano", "--max-tokens", "8", "--out", str(out), "--judge-url", served.url]
        command += ["--judge-model", "심판", "--judgements", str(tmp_path / "kept.jsonl")]
        monkeypatch.setattr(sys, "argv", [*command, "--settings", "greedy", sampling.DEFAULT])
        sampling.main()
    found = json.loads(out.read_text(encoding="utf-8"))
    assert set(found) == {"greedy", sampling.DEFAULT, sampling.CHECK}
    assert "judge" not in found[sampling.DEFAULT]
    for name in ("greedy", sampling.CHECK):
        judge = found[name]["judge"]
        assert judge["wins"] + judge["losses"] + judge["ties"] == 2
    assert found["greedy"]["texts"] == 2
    assert capsys.readouterr().out.count("\n") == 4
