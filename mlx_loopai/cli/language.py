"""The language of the command line: chooses it before anything is printed, and translates the help of commands."""

from __future__ import annotations

import copy
import gettext
import inspect
import os
import re
from collections.abc import Iterable, Iterator, Sequence

import click

from mlx_loopai import language
from mlx_loopai.cli.output import columns
from mlx_loopai.language import LANGUAGES, Language, later, tr

_FLAG = "--lang"
# Put after every character that takes two columns, since click counts characters to wrap lines; never written.
_SECOND_COLUMN = "\u2060"
# Marks a paragraph that click must not wrap, such as commands to type.
_AS_IT_IS = "\b"


def _counted(one: str, many: str) -> tuple[str, str]:
    """A message of click with a singular and a plural, marked for the catalog."""
    return one, many


# Messages of click itself. It asks the standard library's gettext, which `speak` points to our catalog.
CLICK_SAYS = (
    later("Usage:"),
    later("Options"),
    later("Commands"),
    later("Show this message and exit."),
    later("Show the version and exit."),
    later("default: {default}"),
    later("required"),
    later("Missing argument"),
    later("Missing option"),
    later("Missing command."),
    later("Choose from:\n\t{choices}"),
    later("No such option {name!r}."),
    later("No such command {name!r}."),
    later("Invalid value: {message}"),
    later("Invalid value for {param_hint}: {message}"),
    later("{value!r} is not a valid {number_type}."),
    later("{value} is not in the range {range}."),
    later("Option {name!r} does not take a value."),
    _counted("Option {name!r} requires an argument.", "Option {name!r} requires {nargs} arguments."),
    _counted("Did you mean {possibility}?", "(Did you mean one of: {possibilities}?)"),
    _counted("Got unexpected extra argument ({args})", "Got unexpected extra arguments ({args})"),
    _counted("{value!r} is not {choice}.", "{value!r} is not one of {choices}."),
)


def _unused(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    """Does nothing: `speak` has read the option before, since the help itself must be in that language."""


lang_option = click.option(
    _FLAG,
    type=click.Choice(LANGUAGES),
    expose_value=False,
    callback=_unused,
    help="Language of help, messages and reports.  [default: the locale's]",
)


def speak(arguments: Sequence[str]) -> None:
    """Use the language that the command line asks for, otherwise the locale's."""
    chosen = _asked_for(arguments) or language.from_locale(os.environ)
    language.use(chosen)
    # For click, and for the processes that this one starts.
    os.environ["LANGUAGE"] = chosen
    gettext.bindtextdomain(language.DOMAIN, str(language.LOCALES))
    gettext.textdomain(language.DOMAIN)


def _asked_for(arguments: Sequence[str]) -> Language | None:
    named = None
    for place, argument in enumerate(arguments):
        if argument == "--":
            break
        if argument == _FLAG and place + 1 < len(arguments):
            named = arguments[place + 1]
        elif argument.startswith(f"{_FLAG}="):
            named = argument.removeprefix(f"{_FLAG}=")
    return next((known for known in LANGUAGES if known == named), None)


def help_texts(command: click.Command) -> Iterator[str]:
    """All texts of the help of `command` and of its subcommands, in the form in which `spoken` looks them up."""
    yield from _paragraphs(command.help or "")
    if command.short_help:
        yield command.short_help
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.help:
            yield parameter.help
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            yield from help_texts(inner)


def spoken(command: click.Command) -> click.Command:
    """A copy of `command` that takes --lang and whose help is in the language in use; its subcommands likewise."""
    found = copy.copy(command)
    found.context_class = _Context
    found.help = "\n\n".join(_translated(part) for part in _blocks(command.help or ""))
    found.short_help = tr(command.short_help) if command.short_help else None
    found.params = list(command.params)
    if isinstance(found, click.Group):
        found.commands = {name: spoken(inner) for name, inner in found.commands.items()}
    else:
        lang_option(found)
    found.params = [_parameter(one) for one in found.params]
    return found


def _parameter(parameter: click.Parameter) -> click.Parameter:
    found = copy.copy(parameter)
    if isinstance(found, click.Option) and found.help:
        found.help = tr(found.help)
    return found


def _blocks(text: str) -> list[str]:
    return [block for block in re.split(r"\n\s*\n", inspect.cleandoc(text)) if block.strip()]


def _paragraphs(text: str) -> Iterator[str]:
    return (" ".join(block.split()) for block in _blocks(text) if not block.startswith(_AS_IT_IS))


def _translated(block: str) -> str:
    paragraph = " ".join(block.split())
    return block if block.startswith(_AS_IT_IS) else tr(paragraph)


class _Formatter(click.HelpFormatter):
    """Wraps lines by columns, of which a Hangul syllable takes two; click counts characters."""

    def write(self, string: str) -> None:
        super().write(string.replace(_SECOND_COLUMN, ""))

    def write_text(self, text: str) -> None:
        super().write_text(_widened(text))

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        super().write_dl([(_widened(name), _widened(text)) for name, text in rows], col_max, col_spacing)


class _Context(click.Context):
    formatter_class = _Formatter


def _widened(text: str) -> str:
    return "".join(f"{one}{_SECOND_COLUMN}" if columns(one) == 2 else one for one in text)
