"""Shared by all commands: the options --json and --quiet, the result on stdout, and progress on stderr."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import subprocess
import sys
import threading
import time
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from mlx_loopai.language import tr
from mlx_loopai.units import MIB, format_bytes, format_duration

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import Progress as RichProgress

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
quiet_option = click.option("--quiet", is_flag=True, help="Show no progress; errors and the result are still shown.")

# Plain progress lines go to log files: rare enough to read, frequent enough to show that the work goes on.
LINE_EVERY_S = 5.0
# After so long without one, the last line is printed again with what is known then: one item may take minutes.
LONGEST_SILENCE_S = 10.0


def emit(document: dict[str, Any], as_json: bool, text: str) -> None:
    """Print a command's result: one JSON document, or `text` for people (nothing when it is empty)."""
    if as_json:
        click.echo(json.dumps(to_plain(document), ensure_ascii=False, allow_nan=False))
    elif text:
        click.echo(text)


def say_next(command: str, as_json: bool, quiet: bool) -> None:
    """Name on stderr the command that usually follows, with the paths that it needs."""
    if not (as_json or quiet):
        click.echo(tr("next: mlx-loopai {command}", command=command), err=True)


def tell(text: str) -> None:
    """Print a line on stderr, above a bar if one is shown: click's own choice of stderr would pass by the bar."""
    click.echo(text, file=sys.stderr)


def padded(text: str, width: int, after: bool = False) -> str:
    """`text` padded with spaces to `width` columns of a terminal, where a Hangul syllable takes two.

    after: pad on the left, so that the text ends at the column.
    """
    fill = " " * max(0, width - columns(text))
    return fill + text if after else text + fill


def columns(text: str) -> int:
    """How many columns of a terminal `text` takes."""
    return sum(1 + (unicodedata.east_asian_width(one) in "WF") for one in text)


def to_plain(value: Any) -> Any:
    """`value` as JSON can hold it: dataclasses become tables, paths strings, NaN and infinities null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): to_plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(inner) for inner in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # a numpy or mlx scalar or array
        return to_plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


class Progress(Protocol):
    """Progress of long work."""

    def advance(self, amount: int = 1, note: str = "") -> None:
        """`amount` more items are done; `note` (such as a loss) is shown beside the bar until the next one."""

    def update(self, done: int, note: str = "", below: str = "") -> None:
        """`done` items of the total are done. below: shown in a line of its own under a bar."""


@contextlib.contextmanager
def progress(total: int | None, label: str, quiet: bool = False, unit: str = "") -> Iterator[Progress]:
    """Show progress on stderr: a bar on a terminal, plain lines otherwise, nothing when `quiet`.

    Both show rate, time left and memory. `unit` names what is counted ("rows"); "bytes" is shown in MiB and GiB.
    Meanwhile a Mac is kept awake.
    """
    with keep_awake():
        if quiet:
            yield _Silent()
        elif sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            with _rich_bar() as bar:
                yield _Bar(bar, bar.add_task(label, total=total, rate="", note="", memory="", below=""), total, unit)
        else:
            lines = _Lines(total, label, unit)
            with lines.heartbeat():
                yield lines
            lines.close()


@contextlib.contextmanager
def waiting(label: str, quiet: bool = False) -> Iterator[None]:
    """Show on stderr what the program waits for: a spinner on a terminal, otherwise one line if it takes long."""
    if quiet:
        yield
    elif sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        from rich.console import Console

        with Console(stderr=True).status(label):
            yield
    else:
        timer = threading.Timer(LINE_EVERY_S, click.echo, (f"{label} ...",), {"err": True})
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


@contextlib.contextmanager
def keep_awake() -> Iterator[None]:
    """Keep a Mac from idling to sleep while the block runs (or this process lives); elsewhere do nothing."""
    if sys.platform != "darwin":
        yield
        return
    caffeinate = None
    with contextlib.suppress(OSError):
        caffeinate = subprocess.Popen(
            ["caffeinate", "-i", "-w", str(os.getpid())], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
    try:
        yield
    finally:
        if caffeinate is not None:
            caffeinate.terminate()
            caffeinate.wait()


def memory_text() -> str:
    """The memory that MLX holds now, as text; "" before it holds a MiB: a few bytes tell nobody anything."""
    mlx = sys.modules.get("mlx.core")
    held = 0 if mlx is None else mlx.get_active_memory() + mlx.get_cache_memory()
    return format_bytes(held) if held >= MIB else ""


class _Silent:
    def advance(self, amount: int = 1, note: str = "") -> None:
        pass

    def update(self, done: int, note: str = "", below: str = "") -> None:
        pass


class _Counter(ABC):
    """Counts what is done since the start; `_show` draws it."""

    def __init__(self, total: int | None, unit: str) -> None:
        self._total, self._unit, self._done = total, unit, 0
        self._note = self._below = ""
        self._started = time.monotonic()

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.update(self._done + amount, note)

    def update(self, done: int, note: str = "", below: str = "") -> None:
        self._done, self._note, self._below = done, note, below
        self._show()

    @abstractmethod
    def _show(self) -> None: ...

    def _rate(self) -> str:
        elapsed = time.monotonic() - self._started
        if elapsed <= 0 or not self._done:
            return ""
        rate = self._done / elapsed
        if self._unit == "bytes":
            return f"{format_bytes(rate)}/s"
        return f"{rate:.1f} {tr(self._unit)}/s" if self._unit else f"{rate:.1f}/s"

    def _count(self, n: int) -> str:
        return format_bytes(n) if self._unit == "bytes" else str(n)


class _Bar(_Counter):
    def __init__(self, bar: RichProgress, task: Any, total: int | None, unit: str) -> None:
        super().__init__(total, unit)
        self._bar, self._task = bar, task

    def _show(self) -> None:
        self._bar.update(
            self._task,
            completed=self._done,
            rate=self._rate(),
            note=self._note,
            memory=memory_text(),
            below=self._below,
        )


class _Lines(_Counter):
    def __init__(self, total: int | None, label: str, unit: str) -> None:
        super().__init__(total, unit)
        self._label, self._last = label, time.monotonic()

    def _show(self) -> None:
        if time.monotonic() - self._last >= LINE_EVERY_S and self._done != self._total:
            self._print(self._time_left())

    @contextlib.contextmanager
    def heartbeat(self) -> Iterator[None]:
        """Print a line whenever there was none for `LONGEST_SILENCE_S`, for as long as the block runs."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(max(0.0, self._last + LONGEST_SILENCE_S - time.monotonic())):
                if time.monotonic() - self._last >= LONGEST_SILENCE_S:
                    self._print(self._time_left())

        beating = threading.Thread(target=beat, daemon=True)
        beating.start()
        try:
            yield
        finally:
            ended.set()
            beating.join()

    def close(self) -> None:
        self._print(tr("took {time}", time=format_duration(time.monotonic() - self._started)))

    def _time_left(self) -> str:
        if not self._total or not self._done:
            return ""
        elapsed = time.monotonic() - self._started
        left = elapsed * max(self._total - self._done, 0) / self._done
        return tr("{time} left", time=format_duration(left))

    def _print(self, when: str) -> None:
        self._last = time.monotonic()
        done = self._count(self._done)
        if self._total:
            done = tr("{done} of {total}", done=done, total=self._count(self._total))
        unit = f" {tr(self._unit)}" if self._unit not in ("", "bytes") else ""
        parts = [f"{self._label}: {done}{unit}", self._rate(), when, memory_text(), self._note, self._below]
        click.echo(", ".join(part for part in parts if part), err=True)


@contextlib.contextmanager
def _rich_bar() -> Iterator[RichProgress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Bars(Progress):
        def get_renderables(self) -> Iterator[RenderableType]:
            yield from super().get_renderables()
            yield from (Text(task.fields["below"]) for task in self.tasks if task.fields["below"])

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[memory]}"),
        TextColumn("{task.fields[note]}"),
    )
    with Bars(*columns, console=Console(stderr=True), transient=True) as bar:
        yield bar
