"""Sends a run's figures to experiment trackers: TensorBoard, Weights & Biases, Trackio."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

from mlx_loopai.errors import InputError, install_command
from mlx_loopai.language import tr

TrackerName = Literal["tensorboard", "wandb", "trackio"]
TRACKERS: tuple[TrackerName, ...] = get_args(TrackerName)
_PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "trackio": "trackio"}
# Numbers of an event that are not figures to plot.
_LEFT_OUT = frozenset({"step", "time", "skipped"})

Log = Callable[[dict[str, float], int], object]


class Tracker:
    """Passes the numbers of a run's steps and readings on, each under `kind/name`, at the step that they are of."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def record(self, kind: str, values: Mapping[str, Any]) -> None:
        step = values.get("step")
        if step is None:
            return
        figures = {f"{kind}/{name}": float(value) for name, value in values.items() if _is_figure(name, value)}
        if figures:
            self._log(figures, step)


@contextmanager
def tracker(name: TrackerName, run: Path) -> Iterator[Tracker]:
    """The tracker called `name` for the run in the folder `run`, closed at the end.

    tensorboard: its files lie in `run`/tensorboard. wandb, trackio: a run of that name in the project mlx-loopai.
    Raises: InputError when its package is not installed.
    """
    try:
        package = importlib.import_module(_PACKAGES[name])
    except ImportError:
        raise InputError(
            tr(
                "`log_to` {name}: {package} is not installed; {install}",
                name=name,
                package=_PACKAGES[name],
                install=install_command("trackers"),
            )
        ) from None
    if name == "tensorboard":
        with package.SummaryWriter(str(run / "tensorboard")) as writer:
            yield Tracker(lambda figures, step: [writer.add_scalar(key, one, step) for key, one in figures.items()])
        return
    package.init(project="mlx-loopai", name=run.resolve().name)
    try:
        yield Tracker(lambda figures, step: package.log(figures, step=step))
    finally:
        package.finish()


def _is_figure(name: str, value: Any) -> bool:
    return name not in _LEFT_OUT and isinstance(value, int | float) and not isinstance(value, bool)
