from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mlx_loopai.cli.gate import command
from mlx_loopai.cli.main import main
from mlx_loopai.errors import GateFailed, InputError
from mlx_loopai.runs.directory import RunDirectory
from mlx_loopai.runs.documents.verdict import JudgedSummary
from tests.unit.runs.test_documents import DONE

KEPT = {"retention": 0.98, "retention_min": 0.96}
GOOD = {**KEPT, "adapter": "RUN/adapter"}
BAD = {"retention": 0.5, "retention_min": 0.1, "gain": 1.0}


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(command, [str(arg) for arg in args])


def written(path: Path, report: Any) -> Path:
    path.write_text(json.dumps(report), encoding="utf-8")
    return path


def test_a_good_run_folder_passes(tmp_path: Path) -> None:
    written(tmp_path / "evaluation.json", GOOD)
    result = run(tmp_path)
    assert (result.exit_code, result.stdout) == (0, "passed: retention 0.980, retention_min 0.960\n")


def test_what_was_learnt_stands_beside_what_was_kept(tmp_path: Path) -> None:
    written(tmp_path / "evaluation.json", GOOD)
    trained = JudgedSummary(**DONE | {"steps": 99}, gain=0.2, gain_interval=(0.1, 0.3), verdict="pass")
    trained.write(RunDirectory(tmp_path).verdict)
    assert "0.200 nats per token learnt on held-out rows" in run(tmp_path).stdout
    assert json.loads(run(tmp_path, "--json").stdout)["learnt"] == 0.2


@pytest.mark.parametrize(
    ("steps", "low", "reason"), [(9, 0.1, "9 steps are too few"), (99, -0.1, "nothing was clearly")]
)
def test_a_run_that_learnt_nothing_does_not_pass(tmp_path: Path, steps: int, low: float, reason: str) -> None:
    written(tmp_path / "evaluation.json", GOOD)
    trained = JudgedSummary(**DONE | {"steps": steps}, gain=0.2, gain_interval=(low, 0.3), verdict="pass")
    trained.write(RunDirectory(tmp_path).verdict)
    result = run(tmp_path)
    assert isinstance(result.exception, GateFailed)
    assert reason in str(result.exception)


def test_a_report_file_fails_with_all_reasons_in_one_line(tmp_path: Path) -> None:
    result = run(written(tmp_path / "report.json", {**BAD, "gain": -1}))
    assert isinstance(result.exception, GateFailed)
    message = str(result.exception)
    assert all(reason in message for reason in ("retention 0.5", "retention_min 0.1", "gain -1.0"))
    assert "\n" not in message
    assert result.stdout == ""


def test_exit_status_through_the_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = written(tmp_path / "report.json", BAD)
    assert main(["gate", str(report)]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["gate", str(report), "--floor", "0.5", "--min-floor", "0.1"]) == 0
    assert main(["gate", str(tmp_path / "none.json")]) == 2
    assert main(["gate", str(report), "--floor", "95"]) == 2


def test_json_holds_the_verdict_also_when_it_is_no(tmp_path: Path) -> None:
    result = run(written(tmp_path / "report.json", BAD), "--json")
    document = json.loads(result.stdout)
    assert isinstance(result.exception, GateFailed)
    assert (document["passed"], len(document["reasons"])) == (False, 2)
    assert document["floors"] == {"floor": 0.95, "minimum_floor": 0.9, "gain_floor": 0.0, "certain": False}
    assert json.loads(run(written(tmp_path / "good.json", GOOD), "--json").stdout)["passed"] is True


def test_arms(tmp_path: Path) -> None:
    report = written(tmp_path / "demo.json", {"arms": {"base": KEPT, "plain": BAD, "guarded": {**KEPT, "gain": 0.96}}})
    assert run(report).exit_code == 0
    assert run(report, "--gain-floor", "0.95").exit_code == 0
    assert isinstance(run(report, "--gain-floor", "0.97").exception, GateFailed)
    assert isinstance(run(report, "--arm", "plain").exception, GateFailed)
    unknown = run(report, "--arm", "kl").exception
    assert isinstance(unknown, InputError)
    assert "base, plain, guarded" in str(unknown)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not JSON"),
        (b"\xff", "not UTF-8"),
        (b"[1]", "neither a retention nor arms"),
        (b'{"loss": 1}', "neither a retention nor arms"),
        (b'{"retention": null, "retention_min": null, "adapter": null}', "only a base was evaluated"),
        (b'{"arms": []}', "arms: expected a table, got a list"),
        (b'{"retention": 0.9, "retention_min": 0.9, "retentoin": 1}', "did you mean retention?"),
    ],
)
def test_bad_reports(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(content)
    result = run(path)
    assert isinstance(result.exception, InputError)
    assert said in str(result.exception)
    assert str(path) in str(result.exception)


def test_nothing_there_says_how_to_make_it(tmp_path: Path) -> None:
    result = run(tmp_path)
    assert isinstance(result.exception, InputError)
    assert f"mlx-loopai evaluate --adapter {tmp_path}/adapter --out {tmp_path}/evaluation.json" in str(result.exception)
