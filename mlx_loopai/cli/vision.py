"""`mlx-loopai vision`: adds an image encoder to a text model."""

from __future__ import annotations

from pathlib import Path

import click

from mlx_loopai.cli.output import emit, json_option, quiet_option, waiting
from mlx_loopai.language import tr


@click.group("vision", short_help="Give a text model an encoder of pictures.")
def command() -> None:
    """Pictures for models of text."""


@command.command("add", short_help="Write a text model with an encoder and a projector.")
@click.option("--model", default="nano", show_default=True, help="A model of text: nano, a folder or a hub id.")
@click.option(
    "--encoder",
    required=True,
    help="patches (the pixels themselves), efficientnet-lite0, or a folder: of a model that sees, whose tower is "
    "taken, or of EfficientNet-Lite0's weights.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to write; it must not exist.")
@click.option(
    "--grid",
    type=click.IntRange(1),
    help="Tokens along a picture's side: 2, 4 (default), 8 or 16 for patches; 1 to 7 (default) for efficientnet-lite0.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the random projector.")
@json_option
@quiet_option
def add(model: str, encoder: str, out: Path, grid: int | None, seed: int, as_json: bool, quiet: bool) -> None:
    """Write a text model with an encoder of pictures and a two-layer projector into a folder.

    The projector is random: `train` teaches it with rows that show pictures. The text model stays as it is, and every
    program that opens it opens the new folder as that text model.
    """
    from converters.vision_encoder import add_encoder

    with waiting(tr("adding {encoder}", encoder=encoder), quiet):
        found = add_encoder(model, encoder, out, seed, grid)
    document = {
        "out": found.out,
        "encoder": found.encoder,
        "picture_tokens": found.tokens,
        "feature_width": found.width,
        "encoder_parameters": found.encoder_parameters,
        "projector_parameters": found.projector_parameters,
    }
    count = tr("{n} tokens a picture", n=found.tokens) if found.tokens else tr("tokens by the picture's size")
    text = tr(
        "{out}: {encoder}, {tokens}; teach it with `mlx-loopai train`", out=out, encoder=found.encoder, tokens=count
    )
    emit(document, as_json, text)
