"""The real-model experiment's program, on small files of the same shapes."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from types import ModuleType

import pytest

from mlx_loopai.config import load_config
from mlx_loopai.data.records import read_records
from mlx_loopai.data.samples import texts
from mlx_loopai.evaluation.suites import read_suite
from mlx_loopai.evaluation.tasks import Scored
from tests.bench_programs import bench_program


@pytest.fixture(scope="module")
def program() -> ModuleType:
    return bench_program("real_forgetting")


@pytest.fixture(scope="module")
def made(program: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the program makes of small files; once, since it reads them through the whole data room."""
    folder = tmp_path_factory.mktemp("real")
    stories = folder / "stories"
    stories.mkdir()
    # Hard-wrapped lines: a sentence goes on in the next one.
    lines = "\n".join(f"{number}번째 나그네가 고개를 넘어\n마을로 천천히 걸어 내려갔다." for number in range(120))
    (stories / "a.txt").write_text(lines, encoding="utf-8")
    rehearsed = texts.prompts()[0]
    (folder / "chat.csv").write_text(f'Q,A,label\n안녕,반가워요,0\n"{rehearsed}",네,0\n', encoding="utf-8")
    (folder / "p.tsv").write_text("ID\tText\tQuestion\tAnswer\n1\t글이다.\t맞나?\tTrue\n", encoding="utf-8")
    (folder / "m.jsonl").write_text('{"question": "1+1?", "answer": "2"}\n')
    with gzip.open(folder / "c.jsonl.gz", "wt") as file:
        file.write('{"prompt": "def f():", "canonical_solution": "    return 1"}\n')
    (folder / "copa.tsv").write_text("ID\tsentence\tquestion\t1\t2\tAnswer\n1\t비.\t결과\t젖다.\t마르다.\t1\n", "utf-8")
    names = {"dialogue": "chat.csv", "paragraphs": "p.tsv", "maths": "m.jsonl", "code": "c.jsonl.gz"}
    files = {"stories": "stories", **names, "choice": "copa.tsv", "out": "out"}
    program.main(
        ["--model", "nano", *(part for name, file in files.items() for part in (f"--{name}", f"{folder / file}"))]
    )
    return folder / "out"


def test_the_domain_is_nested_json_as_answer_text(program: ModuleType, made: Path) -> None:
    train, held_out = (read_records(made / name) for name in ("domain.jsonl", "held_out.jsonl"))
    assert len(held_out) == program.HELD_OUT_ROWS
    told = [[json.loads(row.messages[1].content)["text"] for row in rows] for rows in (train, held_out)]
    assert all(len(paragraphs) <= 2 for rows in told for paragraphs in rows)
    assert told[1][0][0].endswith("마을로 천천히 걸어 내려갔다.")
    sentences = [{sentence for paragraphs in rows for sentence in paragraphs} for rows in told]
    assert sentences[0]
    assert not sentences[0] & sentences[1]
    assert {row.messages[0].content for row in train} == set(program.PROMPTS["stories", "ko"])


def test_bills_of_law_are_asked_for_as_such_and_tables_of_dashes_are_left_out(program: ModuleType) -> None:
    bill = "제1조를 다음과 같이 고쳐서 새로 정한다. 이 법은 공포한 날부터 시행하기로 한다. 제2조 ------------- 현행과 같이 한다."
    (row,) = program.domain_rows({"bill.txt": bill}, shape="prose", topic="law")
    assert row["prompt"] in program.PROMPTS["law", "ko"]
    assert row["completion"] == "제1조를 다음과 같이 고쳐서 새로 정한다.\n\n이 법은 공포한 날부터 시행하기로 한다."


def test_the_suite_and_the_recipes_can_be_read(program: ModuleType, made: Path) -> None:
    tasks = {task.name: task for task in read_suite(str(made / "suite.yaml"))}
    assert {"domain", "dialogue", "paragraphs", "maths", "code", "choice", "facts_ko"} <= set(tasks)
    dialogue = tasks["dialogue"]
    assert isinstance(dialogue, Scored)
    # The prompt of the rehearsal set is left out.
    assert [record.messages[0].content for record in dialogue.items] == ["안녕"]
    arms = {name: load_config(made / f"{name}.yaml") for name in program.recipes("nano")}
    assert arms["plain"].replay.source == "none"
    assert {arm.train.learning_rate for arm in arms.values()} == {2e-4}
