"""Shows a run's stages as progress bars."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import click

from mlx_loopai.cli.output import Progress, progress
from mlx_loopai.language import tr
from mlx_loopai.runs.listener import Listener


class _ProgressListener:
    def __init__(self, quiet: bool, bars: ExitStack) -> None:
        self._quiet, self._bars = quiet, bars
        self._bar: Progress | None = None

    def notice(self, text: str) -> None:
        if not self._quiet:
            click.echo(tr("note: {text}", text=text), err=True)

    def stage(self, name: str, total: int) -> None:
        self._bars.close()
        self._bar = self._bars.enter_context(progress(total, name, self._quiet))

    def advance(self, done: int, note: str = "") -> None:
        if self._bar is not None:
            self._bar.update(done, note)


@contextmanager
def progress_listener(quiet: bool) -> Iterator[Listener]:
    """A listener that draws one bar per stage and writes notices to stderr."""
    with ExitStack() as bars:
        yield _ProgressListener(quiet, bars)
