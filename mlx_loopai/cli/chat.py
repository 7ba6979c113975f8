"""`mlx-loopai chat`: a conversation in the terminal, or line by line through a pipe."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_loopai.cli.answering import warn_of_cut, warn_of_damage, warn_of_emptied
from mlx_loopai.cli.chat_autosave import Autosave, chats_folder
from mlx_loopai.cli.chat_commands import RETRY, LeaveError, obey, prepared_retry
from mlx_loopai.cli.chat_judging import AGAIN, BAD, EDIT, GOOD, Judging
from mlx_loopai.cli.chat_line import Line
from mlx_loopai.cli.ctrl_c import remembered
from mlx_loopai.cli.generation_options import adapter_when_option, generation_flags, read_flags
from mlx_loopai.cli.model_options import adapter_option, chosen_model, model_option
from mlx_loopai.cli.output import emit, json_option, quiet_option, waiting
from mlx_loopai.cli.shown_options import genre_option, system_option
from mlx_loopai.errors import InputError
from mlx_loopai.language import tr
from mlx_loopai.text.alphabet import Scripts

if TYPE_CHECKING:
    from mlx_loopai.generation.chat import Chat, Turn
    from mlx_loopai.generation.session import AdapterWhen

_FILE = click.Path(path_type=Path)


@dataclasses.dataclass(frozen=True)
class _Console:
    """Where requests come from and answers go: a terminal, a pipe, or a program that reads JSON lines."""

    as_json: bool
    quiet: bool
    line: Line | None = None

    @property
    def is_terminal(self) -> bool:
        return self.line is not None

    def read(self) -> str:
        """The next request. Raises: EOFError after the last one."""
        if self.line is not None:
            return self.line.read()
        try:
            line = sys.stdin.readline()
        except UnicodeDecodeError:
            raise InputError(tr("standard input: not UTF-8; convert it: iconv -f cp949 -t utf-8")) from None
        if not line:
            raise EOFError
        return line.rstrip("\n")

    def note(self, text: str) -> None:
        if not self.quiet:
            click.echo(text, err=True)


@click.command("chat", short_help="Talk with a model in the terminal.")
@model_option
@adapter_option
@adapter_when_option
@click.option("--few-shot", type=_FILE, help="Rows with a request and its answer, shown before the conversation.")
@genre_option
@system_option
@click.option(
    "--feedback", type=_FILE, help="Keep what you think of answers (/good, /bad, /again, /edit) in this JSONL."
)
@click.option("--load", type=_FILE, help="Continue a conversation that /save wrote.")
@click.option("--continue", "goes_on", is_flag=True, help="Continue the last conversation of this terminal.")
@generation_flags()
@click.option(
    "--context", type=click.IntRange(2), help="Tokens of conversation and answer.  [default: the model's, at most 8192]"
)
@json_option
@quiet_option
def command(
    model: str | None,
    adapter: Path | None,
    adapter_when: AdapterWhen,
    few_shot: Path | None,
    genre: str | None,
    system: str | None,
    feedback: Path | None,
    load: Path | None,
    goes_on: bool,
    context: int | None,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Talk with a model: what you type is a request, and lines that begin with / are commands (/help lists them).

    A paste of several lines is one request. Ctrl-C stops an answer and keeps the conversation; Ctrl-D leaves. What is
    said in a terminal is kept, and --continue goes on with it. Through a pipe every line is answered in turn.
    --json prints one JSON document a line, one for each answer. When the conversation no longer fits the context, its
    oldest turns are left out, and a line tells you.
    """
    generation = read_flags(options)
    from mlx_loopai.generation.chat import Chat, ChatOptions
    from mlx_loopai.generation.genres import shown_first
    from mlx_loopai.generation.kept_conversation import Conversation
    from mlx_loopai.generation.session import open_session

    Scripts.parse(generation.scripts)  # before the weights
    model = chosen_model(model, adapter, quiet)
    kept = Autosave.newest() if goes_on else Autosave.new()
    loaded_chat = kept.read() if goes_on else None if load is None else Conversation.load(load)
    examples, system = shown_first(genre, few_shot, system)
    with waiting(tr("loading {model}", model=model), quiet):
        session = open_session(model, adapter, system, adapter_when=adapter_when)
    chat = Chat(session, ChatOptions(generation, session.context(context), examples))
    if loaded_chat is not None:
        chat.begin(loaded_chat)
    terminal = sys.stdin.isatty() and not as_json
    console = _Console(as_json, quiet, open_line() if terminal else None)
    if terminal:
        called = f"{model}+{session.adapter}" if session.adapter else model
        console.note(tr("{model}; Ctrl-D leaves, /help lists the commands", model=called))
        if loaded_chat is not None:
            console.note(tr("the conversation goes on after {n} exchanges", n=loaded_chat.exchanges))
    _talk(chat, console, Judging(feedback, model, adapter), kept if terminal else None)


def _talk(chat: Chat, console: _Console, judging: Judging, kept: Autosave | None) -> None:
    while True:
        try:
            line = console.read().strip()
            if line.startswith("/"):
                _obey(chat, line, console, judging)
            elif line:
                judging.forget()
                _answer(chat, line, console)
            if kept is not None:
                kept.write(chat.conversation)
        except (EOFError, LeaveError):
            break
        except KeyboardInterrupt:
            if not console.is_terminal:
                raise
            console.note("\n" + tr("Ctrl-D leaves"))
        except InputError as error:
            if not console.is_terminal:
                raise
            console.note(str(error))
    if console.is_terminal:
        click.echo()


def _answer(chat: Chat, line: str, console: _Console) -> None:
    turn = chat.ask(line)
    if turn.left_out:
        console.note(
            tr(
                "the conversation is longer than the context: the {left_out} oldest exchanges were left out",
                left_out=turn.left_out,
            )
        )
    stopped = not _shown(turn, console)
    written = turn.writing.text()
    document = {
        **written.as_dict(),
        "read_tokens": turn.read_tokens,
        "left_out": turn.left_out,
        "stopped": stopped,
    }
    emit(document, console.as_json, "")
    sys.stdout.flush()
    if not console.quiet:
        if turn.reached:
            console.note(tr("ended at the length of /length"))
        elif not stopped:
            warn_of_cut([document], chat.options.generation)
        warn_of_emptied(written)
        warn_of_damage(written.argmax_masked)


def _shown(turn: Turn, console: _Console) -> bool:
    """Show an answer as it is written. Returns: False when Ctrl-C stopped it."""
    try:
        with remembered() as check, contextlib.closing(turn.pieces) as pieces:
            for text in pieces:
                check()
                if text and not console.as_json:
                    click.echo(text, nl=False)
    except KeyboardInterrupt:
        click.echo("" if console.as_json else " …", err=console.as_json)
        return False
    if not console.as_json:
        click.echo()
    return True


def _obey(chat: Chat, line: str, console: _Console, judging: Judging) -> None:
    name, _, rest = line[1:].partition(" ")
    if name in (GOOD, BAD, EDIT):
        console.note(judging.judge(chat, name, rest.strip()))
        return
    answered = chat.conversation
    if name in (RETRY, AGAIN):
        _answer(chat, prepared_retry(chat), console)
    elif said := obey(chat, name, rest.strip()):
        console.note(said)
    if name == AGAIN:
        judging.compare(answered)
    elif chat.conversation is not answered:
        judging.forget()


def open_line() -> Line:
    """The line of this terminal, with the requests of earlier conversations to go back to."""
    return Line(chats_folder())
