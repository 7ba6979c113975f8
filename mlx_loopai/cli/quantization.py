"""The options for the form of written weights, shared by the commands that write models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

_Command = TypeVar("_Command", bound=Callable[..., Any])
# The forms of an MLX folder; GGUF has its own.
GGUF_FORMS = ("q8_0", "q4_0", "q4_k_m", "q5_k_m", "q6_k")
MLX_FORMS = ("2", "3", "4", "5", "6", "8", "mxfp4", "mxfp8", "nvfp4")


steer_option = click.option(
    "--steer",
    metavar="auto|SCRIPT=FACTOR,...",
    help="Make the model write a script less by scaling rows of its output head: han=0.5,kana=0.5; auto for Korean."
    " It works in every program that runs the output.",
)


def quantization_options(forms: tuple[str, ...], note: str) -> Callable[[_Command], _Command]:
    """--quantize (one of `forms`; `note` is its help), --group-size (an int or None) and --keep (a tuple)."""
    options = (
        click.option("--quantize", type=click.Choice(forms), help=note),
        click.option(
            "--group-size",
            type=click.Choice(["32", "64", "128"]),
            callback=lambda _context, _option, value: int(value) if value else None,
            help="Weights that share a scale (mlx; 64).",
        ),
        click.option(
            "--keep",
            multiple=True,
            metavar="NAME=FORM",
            help="Another form for the matrices of that name, such as lm_head=8bit or layers.0.*=bf16;"
            " repeatable (mlx).",
        ),
    )

    def decorate(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate
