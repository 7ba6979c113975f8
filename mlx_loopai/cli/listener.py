"""Shows a run's stages as progress bars, with the time that is left of the whole run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from mlx_loopai.cli.output import Progress, progress, tell
from mlx_loopai.language import tr
from mlx_loopai.runs.remaining import Remaining


class ShownProgress:
    """A listener that draws one bar per stage and writes notices to stderr.

    Where it also hears a run's events (`EventSink`), it tells how long the whole run will still take.
    """

    def __init__(self, quiet: bool, bars: ExitStack) -> None:
        self._quiet, self._bars = quiet, bars
        self._bar: Progress | None = None
        self._whole = Remaining()

    def notice(self, text: str) -> None:
        if not self._quiet:
            tell(tr("note: {text}", text=text))

    def stage(self, name: str, total: int) -> None:
        self._bars.close()
        self._bar = self._bars.enter_context(progress(total, name, self._quiet))

    def advance(self, done: int, note: str = "") -> None:
        if self._bar is not None:
            self._bar.update(done, note, self._whole_left())

    def end_stage(self) -> None:
        """Take the bar away, so that something can be asked or another one shown."""
        self._bars.close()
        self._bar = None

    def record(self, kind: str, values: Mapping[str, Any]) -> None:
        self._whole.record(kind, values)

    def _whole_left(self) -> str:
        left = self._whole.left()
        return "" if left is None else tr("whole run: {time} left", time=left.text)


@contextmanager
def progress_listener(quiet: bool) -> Iterator[ShownProgress]:
    """A listener that draws one bar per stage and writes notices to stderr."""
    with ExitStack() as bars:
        yield ShownProgress(quiet, bars)
