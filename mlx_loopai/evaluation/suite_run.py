"""Runs a suite on a model, task by task; keeps the raw answers and judges them whenever they are read.

Asking a base takes minutes, and its answers do not change. Because answers are kept, and not verdicts, an improved
judge needs no new ones.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_loopai.data.tokens import ChatEncoder
from mlx_loopai.evaluation.tasks import Asked, Given, Task, TaskResult, run_together
from mlx_loopai.files import digest_name, is_sealed, seal, write_whole
from mlx_loopai.models.load import LoadedModel
from mlx_loopai.progress import Advance, ignore, part
from mlx_loopai.text.measures import purity


@dataclass(frozen=True)
class SuiteResult:
    """A model's results on a suite: judged answers by task, and nats per token of its texts by name."""

    tasks: tuple[TaskResult, ...]
    nll: dict[str, float]

    @property
    def purity(self) -> float | None:
        """Hangul letters / letters over the answers to Korean questions, in [0, 1]; None when the suite has none."""
        korean = [answer.text for task in self.tasks for answer in task.answers if answer.is_korean]
        return purity("\n".join(korean)) if korean else None


def run_suite(
    loaded: LoadedModel,
    encoder: ChatEncoder,
    tasks: Sequence[Task],
    folder: Path | None = None,
    on_progress: Advance = ignore,
) -> SuiteResult:
    """The model's results, with greedy answers and the script constraint off.

    With a folder, earlier answers of the same model are read from it, and new ones are kept there. `on_progress` is
    called with the number of items done in all, and with the task's name.
    """
    paths = [None if folder is None else folder / _kept_name(loaded, encoder, task) for task in tasks]
    found = [None if path is None else _kept(path, task) for path, task in zip(paths, tasks, strict=True)]
    done = sum(len(task.items) for task, one in zip(tasks, found, strict=True) if one is not None)
    missing = [(place, task) for place, (task, one) in enumerate(zip(tasks, found, strict=True)) if one is None]
    for place, given in _given(loaded, encoder, missing, part(on_progress, done)):
        path = paths[place]
        if path is not None:
            _keep(path, given)
        found[place] = tasks[place].judged(given)
    return SuiteResult(
        tuple(one for one in found if isinstance(one, TaskResult)),
        {task.name: one for task, one in zip(tasks, found, strict=True) if isinstance(one, float)},
    )


def _given(
    loaded: LoadedModel, encoder: ChatEncoder, tasks: Sequence[tuple[int, Task]], on_progress: Advance
) -> Iterator[tuple[int, Given]]:
    """(place, what the model gave) of each of the placed `tasks`: first those whose questions run in one batch."""
    together: list[tuple[int, Asked[Any]]] = []
    alone: list[tuple[int, Task]] = []
    for place, task in tasks:
        if isinstance(task, Asked) and not task.shows_pictures:
            together.append((place, task))
        else:
            alone.append((place, task))
    for number, given in run_together(loaded, encoder, [task for _, task in together], on_progress):
        yield together[number][0], given
    done = sum(len(task.items) for _, task in together)
    for place, task in alone:
        yield place, task.run(loaded, encoder, part(on_progress, done, task.name))
        done += len(task.items)


def is_kept(loaded: LoadedModel, encoder: ChatEncoder, tasks: Sequence[Task], folder: Path) -> bool:
    """Whether `folder` has the model's answers to every task."""
    return all(is_sealed(folder / _kept_name(loaded, encoder, task)) for task in tasks)


def _kept_name(loaded: LoadedModel, encoder: ChatEncoder, task: Task) -> str:
    """The file's name: a hash of everything that answers depend on, but not of how they are judged."""
    return f"answers-{digest_name([*loaded.cache_key, *task.read_by_model(loaded, encoder)])}.json"


def _kept(path: Path, task: Task) -> TaskResult | float | None:
    """The kept answers, judged; None when there are none, or the file is damaged or of other questions."""
    if not is_sealed(path):
        return None
    try:
        return task.judged(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, IndexError):
        return None


def _keep(path: Path, given: Any) -> None:
    """A cache that cannot be written costs time, not the result."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(given, ensure_ascii=False))
        seal(path)
