"""The `mlx-loopai` command: which commands exist, and how an error ends one.

A command's module is imported when it runs, so that `--help` stays quick.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click
from click.exceptions import NoArgsIsHelpError
from click.shell_completion import CompletionItem, shell_complete

from mlx_loopai import __version__
from mlx_loopai.cli.language import lang_option, speak, spoken
from mlx_loopai.cli.wording import one_line, with_flags
from mlx_loopai.errors import Interrupted, LoopaiError
from mlx_loopai.language import tr

PROGRAM = "mlx-loopai"
TRACEBACK_VARIABLE = "MLX_LOOPAI_TRACEBACK"
# Set by the script of `mlx-loopai completion` when the shell asks what could come next on the line.
COMPLETION_VARIABLE = "_MLX_LOOPAI_COMPLETE"

# Every command with its line in `--help`; `mlx_loopai/cli/NAME.py` holds it as `command`.
COMMANDS = {
    "start": "Fine-tune a model on your writing, step by step: from rows or stories to a verdict.",
    "demo": "Show on the embedded model that guarded fine-tuning keeps what plain fine-tuning loses.",
    "convert": "Convert a model between MLX, Hugging Face and GGUF, and quantise it.",
    "adapters": "Merge, fuse, rescale, import, export, inspect and publish LoRA adapters.",
    "export": "Turn a run into a model for Ollama, LM Studio or transformers.",
    "push": "Upload a model or an adapter to the hub, with its card, its figures and a licence.",
    "vision": "Give a text model an encoder of pictures.",
    "steer": "Find how to keep a model from slipping into other scripts.",
    "data": "Audit, reshape and build training data.",
    "feedback": "Collect judged answers, and make pairs to learn from.",
    "plan": "Predict the memory that a training run needs, and choose settings that fit.",
    "train": "Fine-tune a model with LoRA without breaking what it knows.",
    "watch": "Show a run while it trains, on a page of this machine.",
    "compare": "Train a recipe in several ways, and show what each keeps and learns.",
    "evaluate": "Measure how much of its general ability a model has kept.",
    "diagnose": "Look inside a tokenizer, a model or an adapter, in figures and pictures.",
    "gate": "Decide whether a fine-tuned model is good enough: exit status 1 when a floor is missed.",
    "report": "Write the HTML report of a run.",
    "generate": "Generate text from a prompt or a file of prompts.",
    "rag": "Index your own texts, search them, and let the model write from them.",
    "chat": "Talk with a model in the terminal.",
    "serve": "Serve a model over HTTP: OpenAI's API, and a page to try it.",
    "filter": "Clean text of markup, links, code, emoji and foreign words.",
    "benchmark": "Time training or generation against mlx-lm and PyTorch, or compare two results.",
    "doctor": "Show this machine, its MLX and its memory policy, and warn of what would go wrong.",
    "completion": "Print the script that completes this command in zsh, bash or fish.",
}


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports one only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"mlx_loopai.cli.{cmd_name}")
        return spoken(module.command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS:
            import difflib

            near = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = (
                tr("did you mean {name}?", name=near[0]) if near else tr("there are {known}", known=", ".join(COMMANDS))
            )
            raise click.UsageError(tr("no command {name!r}; {hint}", name=name, hint=hint), ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except LoopaiError as error:
            command = self.get_command(ctx, ctx.invoked_subcommand or "")
            if command is not None:
                error.args = (with_flags(str(error), command), *error.args[1:])
            raise

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Completions of `incomplete`. Commands come from the table, since click would import every one of them."""
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        return [CompletionItem(name, help=tr(line)) for name, line in COMMANDS.items() if name.startswith(incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section(tr("Commands")):
            formatter.write_dl([(name, tr(line)) for name, line in COMMANDS.items()])


@click.group(PROGRAM, cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@lang_option
@click.version_option(__version__, prog_name=PROGRAM)
def commands() -> None:
    """Fine-tune a language model on a Mac without breaking it, and prove it.

    Exit status: 0 done; 1 the work failed or a gate said no; 2 wrong usage or input; 130 after Ctrl-C.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns: the exit status; every error is one line on stderr."""
    try:
        status = _run(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
    except BaseException as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            sys.excepthook(type(error), error, error.__traceback__)
        status = _end(error)
    return status


def _run(arguments: list[str]) -> int:
    speak(arguments)
    instruction = os.environ.get(COMPLETION_VARIABLE)
    if instruction:
        return shell_complete(spoken(commands), {}, PROGRAM, COMPLETION_VARIABLE, instruction)
    # Not `commands.main`, which would write an empty line after Ctrl-C.
    try:
        root = spoken(commands)
        with root.make_context(PROGRAM, arguments) as context:
            result = root.invoke(context)
    except click.exceptions.Exit as leave:
        return leave.exit_code
    return result if isinstance(result, int) else 0


def _end(error: BaseException) -> int:
    """Say in one line what went wrong. Returns: the exit status."""
    for kind, handler in _HANDLERS:
        if isinstance(error, kind):
            return handler(error)
    return _fail(
        tr(
            "{kind}: {error}; unexpected, {variable}=1 shows where it happened",
            kind=type(error).__name__,
            error=error,
            variable=TRACEBACK_VARIABLE,
        ),
        1,
    )


def _usage(error: click.ClickException) -> int:
    if isinstance(error, NoArgsIsHelpError):
        click.echo(error.ctx.get_help(), err=True)
        return 2
    context = getattr(error, "ctx", None)
    path = context.command_path if context else PROGRAM
    return _fail(tr("{message}; see `{path} --help`", message=error.format_message().rstrip("."), path=path), 2)


def _system(error: OSError) -> int:
    place = f"{error.filename}: " if error.filename else ""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        _drop_stdout()  # what it still holds cannot be written, but would be tried again at exit
        return _fail(
            tr(
                "{place}{reason}; free some space and run the command again (a training run continues with --resume)",
                place=place,
                reason=reason,
            ),
            1,
        )
    return _fail(
        tr(
            "{place}{reason} ({variable}=1 shows where it happened)",
            place=place,
            reason=reason,
            variable=TRACEBACK_VARIABLE,
        ),
        1,
    )


def _broken_pipe(error: BrokenPipeError) -> int:
    _drop_stdout()
    return 1


def _exit(error: SystemExit) -> int:
    if error.code is None or isinstance(error.code, int):
        return error.code or 0
    return _fail(str(error.code), 1)


_HANDLERS: list[tuple[type[BaseException] | tuple[type[BaseException], ...], Callable[..., int]]] = [
    (Interrupted, lambda error: _stopped(str(error))),
    (LoopaiError, lambda error: _fail(str(error), error.exit_status)),
    (click.ClickException, _usage),
    ((KeyboardInterrupt, click.Abort), lambda error: _stopped(tr("interrupted"))),
    (BrokenPipeError, _broken_pipe),
    (OSError, _system),
    (SystemExit, _exit),
]


def _fail(message: str, status: int) -> int:
    click.echo(tr("{program}: error: {message}", program=PROGRAM, message=one_line(message)), err=True)
    return status


def _stopped(message: str) -> int:
    """What the user asked for is no error."""
    click.echo(f"{PROGRAM}: {one_line(message)}", err=True)
    return Interrupted.exit_status


def _drop_stdout() -> None:
    """Discard what stdout still holds, since the interpreter flushes it at exit and would report an error."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
