"""The command line in Korean: help, errors and results, whose keys stay English."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlx_loopai import language
from mlx_loopai.cli.language import speak
from mlx_loopai.cli.main import main
from mlx_loopai.cli.output import columns, padded


@pytest.fixture(autouse=True)
def _english_again() -> Iterator[None]:
    yield
    speak(["--lang", "en"])


def test_help_is_in_the_language_of_the_locale_and_fits_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LANGUAGE", "")
    monkeypatch.setenv("LC_ALL", "ko_KR.UTF-8")
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["train", "--help"]) == 0
    said = capsys.readouterr().out
    assert "사용법: mlx-loopai train" in said
    assert "보호 없이 학습합니다." in said
    assert "mlx-loopai train --data rows.jsonl --out runs/first\n" in said
    assert max(columns(line) for line in said.splitlines()) <= 80
    assert "\u2060" not in said


@pytest.mark.parametrize("arguments", [["--lang", "ko", "--help"], ["--help", "--lang=ko"]])
def test_lang_says_it_before_or_after_the_rest(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    assert "내 글로 모델을 차근차근" in capsys.readouterr().out


def test_a_command_said_once_in_korean_is_english_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gate", "--help", "--lang", "ko"]) == 0
    assert "이득의 하한" in capsys.readouterr().out
    assert main(["gate", "--help", "--lang", "en"]) == 0
    assert "Least gain" in capsys.readouterr().out


def test_a_run_that_fails_says_why_in_korean(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "none.jsonl"
    assert main(["train", "--lang", "ko", "--data", str(missing), "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("mlx-loopai: 오류: ")
    assert f"{missing}: 그런 파일이 없습니다" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian"], "'trian' 명령은 없습니다. 혹시 train? (`mlx-loopai --help` 참고)"),
        (["train", "--epochz", "2"], "'--epochz' 옵션은 없습니다"),
        (["gate", "x", "--floor", "3"], "범위를 벗어났습니다"),
        (["adapters", "merge", "x"], "필수 옵션이 없습니다: '--out'"),
        (["train", "--data", "x", "--out", "y", "--set", "train.epohs=2"], "모르는 키 train.epohs; 혹시"),
    ],
)
def test_wrong_usage_is_explained_in_korean(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--lang", "ko", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_an_argument_is_still_named_as_the_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "가", "completion": "나"}\n', encoding="utf-8")
    assert main(["--lang", "ko", "generate", "안녕", "--model", str(tmp_path / "no")]) == 2
    assert "--model" in capsys.readouterr().err


def test_the_keys_of_json_stay_english(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "가나다?", "completion": "라마바."}\n', encoding="utf-8")
    documents = {}
    for chosen in ("en", "ko"):
        assert main(["data", "audit", str(rows), "--json", "--lang", chosen]) == 0
        documents[chosen] = json.loads(capsys.readouterr().out)
    assert documents["ko"].keys() == documents["en"].keys()
    assert main(["data", "audit", str(rows), "--lang", "ko"]) == 0
    assert "행             1" in capsys.readouterr().out


def test_a_language_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help", "--lang", "de"]) in (0, 2)
    assert main(["gate", "x", "--lang", "de"]) == 2
    assert "'de' is not one of 'en', 'ko'" in capsys.readouterr().err


def test_processes_that_are_started_speak_the_same_language() -> None:
    speak(["--lang", "ko"])
    assert os.environ["LANGUAGE"] == "ko"
    assert language.from_locale(os.environ) == "ko"


def test_columns_count_what_a_terminal_shows() -> None:
    assert columns("행 a") == 4
    assert padded("행", 4) == "행  "
    assert padded("행", 4, after=True) == "  행"
