"""The program's exceptions: errors that a person can act on.

Library code raises them; only `mlx_loopai.cli` turns them into one line on stderr and an exit status. A message says
what was found, where, why it is wrong and what to do next. It names an argument or an option in backticks, such as
`max_tokens`; the command line shows the flag of that name instead.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable


class LoopaiError(Exception):
    """The work failed (exit status 1)."""

    exit_status = 1


class InputError(LoopaiError):
    """Wrong usage or wrong input: a missing file, a broken line, an unknown key (exit status 2).

    argument: name of the argument at fault, for callers that point at it; None where only the message tells.
    """

    exit_status = 2

    def __init__(self, message: str, argument: str | None = None) -> None:
        super().__init__(message)
        self.argument = argument


class GateFailed(LoopaiError):
    """A release gate said no (exit status 1)."""


class Diverged(LoopaiError):
    """Training diverged: its loss stayed non-finite, or its last updates broke the adapter (exit status 1).

    A sweep may then leave out this learning rate and go on. No other failure means that a rate is too high.
    """


class LeftBudget(LoopaiError):
    """A run left its forgetting budget and stopped itself; its result is inside the budget (exit status 1)."""


class Interrupted(LoopaiError):
    """The user pressed Ctrl-C; what was done so far is saved (exit status 130)."""

    exit_status = 130


def install_command(extra: str) -> str:
    """The command that installs the packages of `extra` into the environment in which this program runs.

    The environment of a tool belongs to uv or pipx, which build it anew from the clone; any other environment has its
    own pip. A bare `pip` could be that of another Python.
    """
    for command, place in (("uv tool install --force", "/uv/tools/"), ("pipx install --force", "/pipx/venvs/")):
        if place in f"{sys.prefix}/":
            return f"{command} '.[{extra}]' (in the clone of mlx-loopai)"
    return f"{sys.executable} -m pip install 'mlx-loopai[{extra}]'"


def all_problems(problems: Iterable[str], limit: int = 10) -> str:
    """One message for several problems, so that a user can mend them all at once.

    The first `limit` are listed; the rest are counted.
    """
    found = list(problems)
    shown = "; ".join(found[:limit])
    return shown if len(found) <= limit else f"{shown}; and {len(found) - limit} more"
