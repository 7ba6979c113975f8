"""`mlx-loopai push` and `adapters push`: a model or an adapter on the hub, with its card and a licence."""

from __future__ import annotations

from pathlib import Path

import click

from mlx_loopai.cli.output import emit, json_option, quiet_option, waiting
from mlx_loopai.files import write_whole
from mlx_loopai.language import tr

_licence_option = click.option(
    "--licence", help="SPDX name for the card.  [default: the card's own, or that of the base where it is known]"
)
_repository = click.argument("repository", metavar="OWNER/NAME")


@click.command("push", short_help="Upload a model or an adapter to the hub, with its card.")
@click.argument("source", metavar="RUN_OR_MODEL", type=click.Path(path_type=Path))
@_repository
@_licence_option
@json_option
@quiet_option
def command(source: Path, repository: str, licence: str | None, as_json: bool, quiet: bool) -> None:
    """Upload RUN_OR_MODEL to the hub, as the model repository OWNER/NAME.

    RUN_OR_MODEL is a run, an adapter's folder, or a model's: one that `train` wrote whole, or that `adapters fuse`,
    `export --to hf` or `convert` made. Its card names the base, the settings, what was measured, and a licence: that of
    the base, which the weights build on. A token is read from HF_TOKEN, or from `hf auth login`.

    \b
    mlx-loopai push runs/first OWNER/NAME
    mlx-loopai push models/fused OWNER/NAME
    """
    _push(source, repository, licence, as_json, quiet)


@click.command("push", short_help="Upload an adapter to the hub, with its card.")
@click.argument("run", metavar="RUN_OR_ADAPTER", type=click.Path(path_type=Path))
@_repository
@_licence_option
@json_option
@quiet_option
def push_adapter(run: Path, repository: str, licence: str | None, as_json: bool, quiet: bool) -> None:
    """Upload the adapter of RUN_OR_ADAPTER to the hub, as the model repository OWNER/NAME.

    Its card names the base, the settings, what was measured, and a licence: that of the base, which an adapter builds
    on. The card in the folder gets the licence too. A token is read from HF_TOKEN, or from `hf auth login`.
    """
    from mlx_loopai.models.adapters import find_adapter

    _push(find_adapter(run), repository, licence, as_json, quiet)


def _push(source: Path, repository: str, licence: str | None, as_json: bool, quiet: bool) -> None:
    from mlx_loopai.models.hub import upload
    from mlx_loopai.models.model_card import CARD_FILE
    from mlx_loopai.runs.publishing import publication

    found = publication(source, licence)
    write_whole(found.folder / CARD_FILE, found.card)
    with waiting(tr("uploading {folder}", folder=found.folder), quiet):
        url = upload(found.folder, repository)
    document = {"url": url, "folder": found.folder, "licence": found.licence, "base": found.base}
    emit(document, as_json, url)
