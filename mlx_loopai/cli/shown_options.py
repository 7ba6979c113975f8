"""The flags for what a model is shown before the first prompt: a genre's examples, a system prompt."""

from __future__ import annotations

import click

genre_option = click.option(
    "--genre", help="Examples and a system prompt that come with the program: 판타지, 로맨스, 동화, 시, 수필."
)
system_option = click.option("--system", help="System prompt. [default: the one the adapter was trained with, if any]")
