"""`mlx-loopai adapters push`: an adapter on the hub, with its card, its figures and the licence of its base."""

from __future__ import annotations

from pathlib import Path

import click

from mlx_loopai.cli.output import emit, json_option, quiet_option, waiting
from mlx_loopai.errors import InputError
from mlx_loopai.files import write_whole
from mlx_loopai.language import tr


@click.command("push", short_help="Upload an adapter to the hub, with its card.")
@click.argument("run", metavar="RUN_OR_ADAPTER", type=click.Path(path_type=Path))
@click.argument("repository", metavar="OWNER/NAME")
@click.option("--licence", help="SPDX name for the card.  [default: that of the base, where it is known]")
@json_option
@quiet_option
def push_command(run: Path, repository: str, licence: str | None, as_json: bool, quiet: bool) -> None:
    """Upload the adapter of RUN_OR_ADAPTER to the hub, as the model repository OWNER/NAME.

    Its card names the base, the settings, what was measured, and a licence: that of the base, which an adapter builds
    on. The card in the folder gets the licence too. A token is read from HF_TOKEN, or from `hf auth login`.
    """
    from mlx_loopai.models.adapters import find_adapter, read_adapter_config
    from mlx_loopai.models.hub import upload
    from mlx_loopai.models.model_card import CARD_FILE, model_card, with_licence
    from mlx_loopai.models.released import licence_of

    adapter = find_adapter(run)
    config = read_adapter_config(adapter)
    base = str((config.get("mlx_loopai") or {}).get("base") or "")
    licence = licence or licence_of(base)
    if licence is None:
        raise InputError(
            tr(
                "{adapter}: the licence of its base {base} is not known; look at the base's page and give --licence",
                adapter=adapter,
                base=base or tr("(not recorded)"),
            )
        )
    card = adapter / CARD_FILE
    written = card.read_text(encoding="utf-8") if card.is_file() else model_card(config)
    write_whole(card, with_licence(written, licence))
    with waiting(tr("uploading {adapter}", adapter=adapter), quiet):
        url = upload(adapter, repository)
    emit({"url": url, "adapter": adapter, "licence": licence, "base": base}, as_json, url)
