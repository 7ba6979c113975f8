"""Suites by name and from files, and the model that each is for."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from pydantic import TypeAdapter

from mlx_loopai.data.samples.skills import SKILLS
from mlx_loopai.errors import InputError
from mlx_loopai.evaluation.suites import HELD_OUT, TaskOptions, default_suite, nano_tasks, read_suite
from mlx_loopai.evaluation.tasks import Asked, Chosen, Scored
from mlx_loopai.models.load import NANO_FOLDER


def test_a_suite_file_names_tasks_relative_to_itself(tmp_path: Path) -> None:
    (tmp_path / "qa.jsonl").write_text('{"prompt": "a", "answers": ["b"]}\n{"prompt": "c", "answers": ["d"]}\n')
    (tmp_path / "rows.jsonl").write_text('{"text": "some text"}\n')
    (tmp_path / "c.jsonl").write_text('{"question": "q", "choices": ["x", "y"], "answer": 1}\n')
    file = tmp_path / "suite.yaml"
    file.write_text(
        "qa: {kind: generate, file: qa.jsonl, limit: 1, max_tokens: 7}\n"
        "rows: {kind: nll, file: rows.jsonl}\nc: {kind: choice, file: c.jsonl}\n"
    )
    asked, scored, chosen = read_suite(str(file))
    assert isinstance(asked, Asked)
    assert (len(asked.items), asked.max_tokens) == (1, 7)
    assert isinstance(scored, Scored)
    assert isinstance(chosen, Chosen)
    file.write_text("qa: {kind: generate}\nx: {kind: nll, file: a, colour: red}\n")
    with pytest.raises(InputError, match=r"needs a file(.|\n)*colour"):
        read_suite(str(file))


def test_the_suite_file_of_the_documentation_is_one() -> None:
    page = (Path(__file__).parents[3] / "docs" / "measuring.md").read_text(encoding="utf-8")
    block = page.split("```yaml\n")[1].split("```")[0]
    options = TypeAdapter(dict[str, TaskOptions]).validate_python(yaml.safe_load(block))
    assert {one.kind for one in options.values()} == {"general", "choice", "generate", "caption", "nll"}


def test_five_nano_tasks_of_two_hundred_questions_and_more() -> None:
    tasks = nano_tasks()
    assert tuple(task.name for task in tasks) == SKILLS
    for task in tasks:
        assert 200 <= len(task.items) <= 240
        assert len({item.prompt for item in task.items}) == len(task.items)
        assert 0 < task.chance < 0.2


def test_a_quick_look_is_the_same_every_time_and_keeps_the_chance_of_the_whole() -> None:
    whole, part = read_suite("nano"), read_suite("nano", 10)
    assert part == read_suite("nano", 10)
    assert [task.name for task in part] == [*SKILLS, HELD_OUT]
    for task, all_of_it in zip(part[:5], whole[:5], strict=True):
        assert isinstance(task, Asked)
        assert isinstance(all_of_it, Asked)
        assert (len(task.items), task.chance) == (10, all_of_it.chance)
        assert set(task.items) < set(all_of_it.items)
    assert read_suite("nano", 10_000) == whole


def test_the_suite_that_suits_a_model(tiny_model_folder: Path, tmp_path: Path) -> None:
    assert default_suite(NANO_FOLDER) == "nano"
    assert default_suite(tiny_model_folder) == "general"
    assert default_suite(tmp_path) == "general"
    shutil.copy(NANO_FOLDER / "tokenizer.json", tmp_path)
    assert default_suite(tmp_path) == "nano"
