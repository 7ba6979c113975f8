"""The options of generation as flags: names, defaults, ranges and help come from the configuration's class."""

from __future__ import annotations

import re
import types
from collections.abc import Callable
from typing import Any, Union, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from mlx_loopai.config import GenerationOptions, generation_options

_NAME = re.compile(r"`(\w+)`")


adapter_when_option = click.option(
    "--adapter-when",
    type=click.Choice(["always", "auto"]),
    default="always",
    show_default=True,
    help="auto: prompts unlike those that the adapter was trained on are answered by the base.",
)


def generation_flags(*without: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Adds a flag for every option of GenerationOptions except `without`; `read_flags` takes them out again.

    A flag that is not given is None, so that the default comes from the class, and a chosen value can be told from it.
    """

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for name, field in reversed(GenerationOptions.model_fields.items()):
            if name not in without:
                command = _flag(name, field)(command)
        return command

    return add


def read_flags(arguments: dict[str, Any]) -> GenerationOptions:
    """Take the options of generation out of a command's `arguments`. Raises: InputError for values out of range."""
    names = [name for name in GenerationOptions.model_fields if name in arguments]
    given = {name: arguments.pop(name) for name in names}
    return generation_options({name: value for name, value in given.items() if value not in (None, ())})


def _flag(name: str, field: FieldInfo) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    flag = "--" + name.replace("_", "-")
    default = "" if any(field.default is one for one in (None, False, ())) else f"  [default: {field.default}]"
    said = _NAME.sub(lambda found: "--" + found[1].replace("_", "-"), field.description or "")
    help_text = f"{said[:1].upper()}{said[1:]}.{default}"
    kind: Any = field.annotation
    if get_origin(kind) in (Union, types.UnionType):
        kind = next(one for one in get_args(kind) if one is not type(None))
    if field.annotation is bool:
        return click.option(flag, name, is_flag=True, default=None, help=help_text)
    if kind is bool:
        return click.option(f"{flag}/--no-{name.replace('_', '-')}", name, default=None, help=help_text)
    if get_origin(kind) is tuple:
        return click.option(flag, name, multiple=True, help=help_text)
    return click.option(flag, name, type=kind, help=help_text)
