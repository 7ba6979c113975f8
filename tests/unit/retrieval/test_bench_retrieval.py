"""docs/retrieval.md says what docs/results/retrieval.json says, and the program that writes both works."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from tests.bench_programs import bench_program

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def program() -> ModuleType:
    return bench_program("retrieval")


def test_the_tables_are_current(program: ModuleType) -> None:
    document = (ROOT / "docs" / "retrieval.md").read_text(encoding="utf-8")
    results = json.loads((ROOT / "docs" / "results" / "retrieval.json").read_text(encoding="utf-8"))
    assert program.with_tables(document, results) == document


def test_quality_counts_ties_against_itself(program: ModuleType, tmp_path: Path) -> None:
    rows = [
        "ID\tText\tQuestion\tAnswer",
        '1\t등대에 "불이 켜졌다.\t등대가 켜졌나?\tTRUE',
        "2\t고양이가 잔다.\txyz\tFALSE",
    ]
    (tmp_path / "q.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    questions = program.read_questions(tmp_path / "q.tsv")
    assert questions[0] == ("등대가 켜졌나?", '등대에 "불이 켜졌다.')
    found = program.quality(questions)
    # Nothing of the second question is anywhere: both paragraphs tie, and the right one comes last.
    assert found["pairs"] == {"r1": 0.5, "r5": 1.0, "r10": 1.0, "mrr10": 0.75}
    assert found["words"]["r1"] == 0
    assert found["gain_r1"] == 0.5


def test_speed_measures_an_index_that_it_makes(program: ModuleType, tmp_path: Path) -> None:
    questions = [("등대가 켜졌나?", f"등대에 불이 {number}번 켜졌다. 배가 {number}척 돌아왔다.") for number in range(9)]
    found = program.speed(questions, tmp_path / "index", 20)
    assert found["passages"] == 20
    assert 0 < found["median_ms"] <= found["p95_ms"] <= found["max_ms"]
