"""bench/language_confusion.py: halves that share no request, and words counted as the tables say."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import ModuleType

import pytest

from tests.bench_programs import bench_program


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return bench_program("language_confusion")


def test_wordings_of_a_request_are_in_one_half(bench: ModuleType) -> None:
    requests = [f"How are clouds number {i} made?" for i in range(60)]
    train, held = bench.halves([f"Reply in Korean. {request}" for request in requests] + requests)
    assert len(train) + len(held) == 120
    assert min(len(train), len(held)) > 20
    assert not {bench.request(prompt) for prompt in train} & {bench.request(prompt) for prompt in held}


def test_order_and_repetition_of_the_source_do_not_matter(bench: ModuleType) -> None:
    prompts = [f"{i}번째 질문은 무엇인가요?" for i in range(30)]
    assert bench.halves(prompts) == bench.halves([*reversed(prompts), *prompts])
    assert bench.halves(["가" * 161]) == ([], [])


def test_sets_of_held_out_prompts_have_forty(bench: ModuleType, tmp_path: Path) -> None:
    with (tmp_path / "native_ko.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerows([["prompt"], *([f"두 줄로 된\n{i}번째 질문"] for i in range(200))])
    bench.write_halves(tmp_path, tmp_path / "out")
    sets = {path.stem: path.read_text(encoding="utf-8").splitlines() for path in (tmp_path / "out").iterdir()}
    assert sum(map(len, sets.values())) == 200
    assert len(sets["held-1"]) == len(sets["held-2"]) == 40
    assert "train" in sets


def test_words_are_unbroken_letters_of_one_script(bench: ModuleType) -> None:
    counted = bench.count(["나는 deep learning을 한다. 深層학습", "모두 한글", "GPT-4와 カナ"])
    assert counted.words == {"han": 1, "kana": 1, "latin": 3}
    assert (counted.answers, counted.with_foreign) == (3, 2)
    letters = len("나는deeplearning을한다深層학습모두한글GPT와カナ")
    assert counted.letters == letters
    assert counted.per_1000 == pytest.approx(1000 * 5 / letters)


def test_the_cut_is_against_the_first_file(bench: ModuleType, tmp_path: Path) -> None:
    before, after = tmp_path / "before.jsonl", tmp_path / "after.jsonl"
    before.write_text(json.dumps({"text": "가 a 나 b"}) + "\n", encoding="utf-8")
    after.write_text(json.dumps({"text": "가나다 a"}) + "\n", encoding="utf-8")
    report = bench.scores([before, after])
    assert report[str(before)]["cut"] == 0
    assert report[str(after)]["cut"] == pytest.approx(1 - (1 / 4) / (2 / 4))
    assert bench.scores([after, before])[str(before)]["cut"] == pytest.approx(-1)
