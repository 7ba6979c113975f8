"""A model's answers to a suite, with progress, and the tasks of it that a base knows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mlx_loopai.data.tokens import ChatEncoder
from mlx_loopai.evaluation.retention import counted
from mlx_loopai.evaluation.suite_run import SuiteResult, is_kept, run_suite
from mlx_loopai.evaluation.tasks import Task
from mlx_loopai.language import tr
from mlx_loopai.models.load import LoadedModel
from mlx_loopai.runs.listener import Listener


def measure_suite(
    loaded: LoadedModel,
    encoder: ChatEncoder,
    tasks: Sequence[Task],
    listener: Listener,
    label: str,
    folder: Path | None = None,
) -> SuiteResult:
    """`run_suite`, with progress reported unless everything is in `folder` already."""
    if folder is None or not is_kept(loaded, encoder, tasks, folder):
        listener.stage(tr("questions: {label}", label=label), sum(len(task.items) for task in tasks))
    return run_suite(loaded, encoder, tasks, folder, listener.advance)


def well_known(tasks: Sequence[Task], base: SuiteResult) -> tuple[list[Task], SuiteResult]:
    """The tasks that retention counts, and the base's answers to them. Tasks that the base hardly knows are left out.

    Raises: InputError when there is none.
    """
    names = counted(base.tasks)
    return [task for task in tasks if task.name in names], SuiteResult(
        tuple(task for task in base.tasks if task.name in names), {}
    )
