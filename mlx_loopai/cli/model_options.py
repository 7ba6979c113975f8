"""The flags --model and --adapter, and the base that they mean: an adapter or a run names its own."""

from __future__ import annotations

from pathlib import Path

import click

from mlx_loopai.language import tr

model_option = click.option(
    "--model", help="nano (embedded), a folder, or a hub id.  [default: the adapter's own base; without one, nano]"
)
adapter_option = click.option(
    "--adapter", type=click.Path(path_type=Path), help="A RUN of `train`, or an adapter's folder; it names its base."
)

adapters_option = click.option(
    "--adapter",
    type=click.Path(path_type=Path),
    multiple=True,
    help="A RUN of `train`, or an adapter's folder; it names its base. Repeatable: clients choose by name.",
)


def chosen_model(model: str | None, adapter: Path | None, quiet: bool) -> str:
    """The name of the base to load; if the adapter names it, that is said on stderr. Raises: InputError."""
    from mlx_loopai.runs.base_of_adapter import base_of

    found = base_of(adapter, model)
    if adapter is not None and model is None and not quiet:
        click.echo(tr("base: {found}, which {adapter} was trained on", found=found, adapter=adapter), err=True)
    return found
