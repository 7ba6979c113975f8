"""One runner for every task: what a model gave is kept, and judged anew when it is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlx_loopai.data.records import read_records
from mlx_loopai.data.tokens import ChatEncoder
from mlx_loopai.evaluation import suite_run
from mlx_loopai.evaluation import tasks as evaluation_tasks
from mlx_loopai.evaluation.choices import Choice
from mlx_loopai.evaluation.questions import QUESTION_JUDGE, Question
from mlx_loopai.evaluation.suite_run import is_kept, run_suite
from mlx_loopai.evaluation.suites import read_suite
from mlx_loopai.evaluation.tasks import Asked, Chosen, Scored, Task
from mlx_loopai.generation.engine import Generation, SamplingOptions
from mlx_loopai.models.load import LoadedModel, load_model


@pytest.fixture(scope="module")
def loaded(tiny_model_folder: Path) -> LoadedModel:
    return load_model(str(tiny_model_folder), "fp32")


@pytest.fixture
def tasks(tmp_path: Path) -> list[Task]:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "some text"}\n{"text": "another one"}\n', encoding="utf-8")
    asked = Asked.of("qa", [Question(f"q{n}", (f"value{n}",), language="ko") for n in range(4)], QUESTION_JUDGE, 3)
    chosen = Chosen("mc", (Choice("q", ("a", "bb"), 0), Choice("r", ("c", "dd"), 1)))
    return [asked, chosen, Scored("rows", tuple(read_records(rows, "rows")))]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the tasks that the model was really asked."""
    found: list[str] = []
    for kind in (Chosen, Scored):
        original = kind.run

        def noted(task: Any, *arguments: Any, original: Any = original) -> Any:
            found.append(task.name)
            return original(task, *arguments)

        monkeypatch.setattr(kind, "run", noted)
    together = suite_run.run_together

    def noted_together(loaded: Any, encoder: Any, tasks: Any, *arguments: Any) -> Any:
        found.extend(task.name for task in tasks)
        return together(loaded, encoder, tasks, *arguments)

    monkeypatch.setattr(suite_run, "run_together", noted_together)
    return found


def test_what_was_run_is_not_run_again(loaded: LoadedModel, tasks: list[Task], ran: list[str], tmp_path: Path) -> None:
    encoder, folder = ChatEncoder(loaded.tokenizer), tmp_path / "kept"
    first = run_suite(loaded, encoder, tasks[:1], folder)
    assert not is_kept(loaded, encoder, tasks, folder)
    shown: list[tuple[int, str]] = []
    both = run_suite(loaded, encoder, tasks, folder, lambda done, note="": shown.append((done, note)))
    assert ran == ["qa", "mc", "rows"]
    assert both.tasks[0] == first.tasks[0]
    assert shown[-1] == (8, "rows")
    assert is_kept(loaded, encoder, tasks[::-1], folder)
    assert run_suite(loaded, encoder, tasks, folder) == run_suite(loaded, encoder, tasks) == both
    assert ran == ["qa", "mc", "rows"] * 2


@pytest.mark.parametrize("content", ["", "{}", "[1]", '[["a", true]]', "null", '"x"'])
def test_a_kept_file_that_cannot_be_used_is_asked_again(
    loaded: LoadedModel, tasks: list[Task], ran: list[str], tmp_path: Path, content: str
) -> None:
    encoder, folder = ChatEncoder(loaded.tokenizer), tmp_path / "kept"
    found = run_suite(loaded, encoder, tasks, folder)
    for path in folder.iterdir():
        path.write_text(content, encoding="utf-8")
    assert run_suite(loaded, encoder, tasks, folder) == found
    assert ran == ["qa", "mc", "rows"] * 2


def test_another_system_prompt_or_length_is_asked_anew(
    loaded: LoadedModel, tasks: list[Task], ran: list[str], tmp_path: Path
) -> None:
    run_suite(loaded, ChatEncoder(loaded.tokenizer), tasks, tmp_path / "kept")
    run_suite(loaded, ChatEncoder(loaded.tokenizer, "짧게 답하세요."), tasks[:1], tmp_path / "kept")
    longer = Asked.of("qa", tasks[0].items, QUESTION_JUDGE, 4)
    run_suite(loaded, ChatEncoder(loaded.tokenizer), [longer], tmp_path / "kept")
    assert ran == ["qa", "mc", "rows", "qa", "qa"]


def test_tasks_are_answered_in_one_batch_as_each_alone(loaded: LoadedModel, tasks: list[Task], tmp_path: Path) -> None:
    """Each with its own limit; those that have ended are kept although a later one is interrupted."""
    one = tasks[0]
    assert isinstance(one, Asked)
    others = [Asked.of(f"qa{limit}", one.items[:limit], QUESTION_JUDGE, limit) for limit in (1, 2)]
    encoder, all_tasks = ChatEncoder(loaded.tokenizer), [others[0], tasks[1], one, others[1]]
    shown: list[tuple[int, str]] = []
    found = run_suite(loaded, encoder, all_tasks, on_progress=lambda done, note="": shown.append((done, note)))
    assert [task.name for task in found.tasks] == ["qa1", "mc", "qa", "qa2"]
    assert [number for number, _ in shown[:7]] == [1, 2, 3, 4, 5, 6, 7]
    for task, result in zip(all_tasks, found.tasks, strict=True):
        assert task.judged(task.run(loaded, encoder)) == result

    def stopped(done: int, note: str = "") -> None:
        if note == "qa2":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_suite(loaded, encoder, [others[0], one, others[1]], tmp_path / "kept", stopped)
    assert is_kept(loaded, encoder, [others[0]], tmp_path / "kept")
    assert not is_kept(loaded, encoder, [others[1]], tmp_path / "kept")


def test_a_task_is_asked_greedily_in_one_batch_and_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    task = read_suite("nano", 3)[3]
    assert isinstance(task, Asked)
    seen: dict[str, Any] = {}

    def generate_in_turn(
        loaded: object, prompts: Sequence[list[int]], options: SamplingOptions, order: list[int], limits: list[int]
    ) -> Iterator[tuple[int, Generation]]:
        seen.update(prompts=list(prompts), options=options, limits=limits)
        texts = [task.items[0].answer, '{"text": ["1"]}', task.items[2].answer]
        assert sorted(order) == [0, 1, 2]
        return ((index, Generation(texts[index], (1,), index < 2, 4)) for index in (2, 0, 1))

    encoder: Any = SimpleNamespace(prompt_ids=lambda messages: [len(messages[0].content)])
    monkeypatch.setattr(evaluation_tasks, "generate_in_turn", generate_in_turn)
    progress: list[int] = []
    result = task.judged(task.run(None, encoder, lambda done, note="": progress.append(done)))  # type: ignore[arg-type]
    assert seen["prompts"] == [[len(item.prompt)] for item in task.items]
    assert (seen["options"].temperature, seen["limits"]) == (0, [48] * 3)
    assert result.right == (True, False, False)
    assert [answer.broken for answer in result.answers] == [None, "json", "unfinished"]
    assert result.answers[1].text == '{"text": ["1"]}'
    assert (result.n, result.score) == (3, pytest.approx(1 / 3))
    assert progress == [1, 2, 3]


def test_purity_is_of_the_answers_to_korean_questions(loaded: LoadedModel, tasks: list[Task]) -> None:
    encoder = ChatEncoder(loaded.tokenizer)
    assert run_suite(loaded, encoder, tasks[:1]).purity is not None
    assert run_suite(loaded, encoder, tasks[1:]).purity is None
