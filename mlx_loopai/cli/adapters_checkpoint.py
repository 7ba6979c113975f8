"""`mlx-loopai adapters checkpoint`: the adapter of a checkpoint, to be compared with the run's last one."""

from __future__ import annotations

from pathlib import Path

import click

from mlx_loopai.cli.output import emit, json_option, quiet_option, say_next
from mlx_loopai.errors import InputError
from mlx_loopai.language import tr

_FOLDER = click.Path(path_type=Path)


@click.command("checkpoint", short_help="Make an adapter of a run's checkpoint.")
@click.argument("run", metavar="RUN", type=_FOLDER)
@click.option("--step", type=click.IntRange(min=1), help="After which step.  [default: the newest one before the last]")
@click.option("--out", type=_FOLDER, required=True, help="Folder to create; never overwritten.")
@json_option
@quiet_option
def checkpoint_command(run: Path, step: int | None, out: Path, as_json: bool, quiet: bool) -> None:
    """Write the adapter as it was at a checkpoint of RUN.

    `serve` with --adapter for RUN and for this folder compares the two side by side on its page.
    """
    from mlx_loopai.training.checkpoint_adapter import write_checkpoint_adapter

    if out.exists():
        raise InputError(tr("--out {out}: is already there and never overwritten; choose another folder", out=out))
    found = write_checkpoint_adapter(run, step, out)
    emit({"out": out, "checkpoint": found.name}, as_json, f"{out}: {found.name}")
    say_next(f"serve --adapter {run} --adapter {out}", as_json, quiet)
