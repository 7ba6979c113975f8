"""The document of a benchmark: committed results read, and come back as they were written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlx_loopai.errors import InputError
from mlx_loopai.runs.documents.race import GenerateRace, TrainRace, read_race

RESULTS = sorted((Path(__file__).parents[3] / "bench" / "results").glob("*.json"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_committed_results_read_and_come_back_whole(path: Path) -> None:
    committed = json.loads(path.read_text(encoding="utf-8"))
    race = read_race(path)
    assert isinstance(race, TrainRace if committed["kind"] == "train" else GenerateRace)
    written = race.to_json()
    for name, side in committed["backends"].items():
        assert written["backends"][name].items() >= side.items()
    assert {key: written[key] for key in committed if key != "backends"} == {
        key: value for key, value in committed.items() if key != "backends"
    }


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file; mlx-loopai benchmark train writes one"),
        ("{", "r.json:1: not JSON"),
        ("[]", "not a result of mlx-loopai benchmark"),
        ('{"kind": "other", "backends": {}}', "not a result of mlx-loopai benchmark"),
        (
            '{"kind": "train"}',
            "case is missing; rounds is missing; backends is missing; ratios is missing; equal is missing",
        ),
    ],
)
def test_what_is_no_result_is_refused(tmp_path: Path, content: str | None, said: str) -> None:
    path = tmp_path / "r.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError) as failure:
        read_race(path)
    assert str(path) in str(failure.value)
    assert said in str(failure.value)


def test_a_side_with_a_key_too_many_is_named(tmp_path: Path) -> None:
    committed: dict[str, Any] = json.loads(next(path for path in RESULTS if "train" in path.stem).read_text("utf-8"))
    committed["backends"]["mlx-lm"]["peak_byte"] = 1
    with pytest.raises(InputError, match=r"unknown key backends\.mlx-lm\.peak_byte; did you mean peak_bytes"):
        TrainRace.from_json(committed, "r.json")
