"""Rewrites the library's messages for the command line: arguments as flags, control characters written out."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click

_ARGUMENT = re.compile(r"`([a-z][a-z0-9_]*)`")
# All of Unicode's controls and the marks that reorder a line: \x1b would begin an escape sequence.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def with_flags(message: str, command: click.Command) -> str:
    """`message` with each argument that it names in backticks as the flag of `command`, where there is one.

    The library does not know how its arguments were given: it writes `max_tokens` where a person typed --max-tokens.
    """
    flags = dict(_flags(command))
    return _ARGUMENT.sub(lambda found: flags.get(found[1], found[0]), message)


def one_line(message: str) -> str:
    """`message` without line breaks and with control characters written out, since file names may contain them."""
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], " ".join(message.split()))


def _flags(command: click.Command) -> Iterator[tuple[str, str]]:
    """(argument, flag) of a command, or of all commands of a group."""
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            yield from _flags(inner)
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            for flag in (*parameter.opts, *parameter.secondary_opts):
                yield flag.lstrip("-").replace("-", "_"), flag
            if parameter.name:
                yield parameter.name, parameter.opts[0]
