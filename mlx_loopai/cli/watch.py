"""`mlx-loopai watch`: a page that shows a run while it trains."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_loopai.cli.listening import listen, require_stack, served
from mlx_loopai.cli.output import emit, json_option, quiet_option
from mlx_loopai.errors import InputError
from mlx_loopai.language import in_use, tr

if TYPE_CHECKING:
    from mlx_loopai.runs.directory import RunDirectory

HOST = "127.0.0.1"


@click.command("watch", short_help="Show a run while it trains, on a page of this machine.")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8090, show_default=True, help="Port of the page; 0: any free one."
)
@json_option
@quiet_option
def command(run: Path, port: int, as_json: bool, quiet: bool) -> None:
    """Show the run in the folder RUN on a page of this machine, whichever process trains it.

    The page shows loss, general ability kept, learning rate, memory against plan and the time that is left. While
    somebody looks, the base and the model in training answer the same prompts at every save. The page can also ask the
    run to save, or to save and stop. It answers to this machine alone. Ctrl-C ends the page, not the run.
    """
    if not run.is_dir():
        raise InputError(tr("{run}: there is no such folder; give the folder of a run", run=run))
    with watched(run, port) as url:
        emit(
            {"url": url, "run": run}, as_json, tr("{run}: {url} (Ctrl-C ends the page, not the run)", run=run, url=url)
        )
        sys.stdout.flush()
        ended = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: ended.set())
        try:
            ended.wait()
        except KeyboardInterrupt:
            return


class Looking:
    """Marks a run as watched from its first event on, so that its page shows the answers of every save."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run

    def record(self, kind: str, values: Mapping[str, Any]) -> None:
        self._run.look()


@contextmanager
def watched(run: Path, port: int) -> Iterator[str]:
    """The page of a run, served while the block runs. Yields: its address. Raises: InputError without a free port."""
    require_stack()
    from mlx_loopai.runs.directory import RunDirectory
    from mlx_loopai.serving.watch import build_watch

    with served(build_watch(RunDirectory(run), in_use()), listen(HOST, port)) as url:
        yield url
