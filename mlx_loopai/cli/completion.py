"""`mlx-loopai completion`: the script that lets the shell complete commands, options and files."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from mlx_loopai.cli.main import COMPLETION_VARIABLE, PROGRAM, commands
from mlx_loopai.cli.output import emit, json_option, quiet_option


@click.command("completion")
@click.argument("shell", type=click.Choice(["zsh", "bash", "fish"]))
@json_option
@quiet_option
def command(shell: str, as_json: bool, quiet: bool) -> None:
    """Print the completion script for SHELL.

    \b
    In ~/.zshrc:    autoload -Uz compinit && compinit; eval "$(mlx-loopai completion zsh)"
    In ~/.bashrc:   eval "$(mlx-loopai completion bash)"
    For fish:       mlx-loopai completion fish > ~/.config/fish/completions/mlx-loopai.fish

    Open a new shell afterwards. Bash needs version 4.4 or newer: macOS ships an older one, but its zsh is fine.
    """
    completion = get_completion_class(shell)
    assert completion is not None, shell  # click.Choice offers only shells that click knows
    script = completion(commands, {}, PROGRAM, COMPLETION_VARIABLE).source()
    emit({"shell": shell, "script": script}, as_json=as_json, text=script.strip())
