"""`mlx-loopai chat`: a conversation in the terminal, or line by line through a pipe."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_loopai.cli.answering import warn_of_cut, warn_of_damage, warn_of_emptied
from mlx_loopai.cli.generation_options import adapter_when_option, generation_flags, read_flags
from mlx_loopai.cli.model_options import adapter_option, chosen_model, model_option
from mlx_loopai.cli.output import emit, json_option, quiet_option, waiting
from mlx_loopai.cli.shown_options import genre_option, system_option
from mlx_loopai.config import generation_options
from mlx_loopai.errors import InputError
from mlx_loopai.language import later, tr
from mlx_loopai.text.alphabet import Scripts

if TYPE_CHECKING:
    from mlx_loopai.generation.chat import Chat, Turn
    from mlx_loopai.generation.session import AdapterWhen

_FILE = click.Path(path_type=Path)
_HELP = later("""\
/system TEXT  set the system prompt; without TEXT show it
/retry        answer the last request anew, with another seed
/set NAME V   set an option of generation, such as /set temperature 0.9
/undo         take back the last request and its answer
/reset        start a new conversation
/save FILE    write the conversation to a .jsonl file, which training can read
/load FILE    continue a saved conversation
/help         this list
Ctrl-C stops an answer; Ctrl-D or /exit leaves.""")


class _LeaveError(Exception):
    """The user asked to leave."""


@dataclasses.dataclass(frozen=True)
class _Console:
    """Where requests come from and answers go: a terminal, a pipe, or a program that reads JSON lines."""

    as_json: bool
    quiet: bool

    @property
    def is_terminal(self) -> bool:
        return sys.stdin.isatty() and not self.as_json

    def read(self) -> str:
        """The next line. Raises: EOFError after the last one."""
        if self.is_terminal:
            return input("> ")
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
@click.option("--load", type=_FILE, help="Continue a conversation that /save wrote.")
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
    load: Path | None,
    context: int | None,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Talk with a model: each line is a request, and lines that begin with / are commands (/help lists them).

    Ctrl-C stops an answer and keeps the conversation; Ctrl-D leaves. Through a pipe every line is answered in turn.
    --json prints one JSON document a line, one for each answer. When the conversation no longer fits the context, its
    oldest turns are left out, and a line tells you.
    """
    generation = read_flags(options)
    from mlx_loopai.generation.chat import Chat, ChatOptions, Conversation
    from mlx_loopai.generation.genres import shown_first
    from mlx_loopai.generation.session import open_session

    Scripts.parse(generation.scripts)  # before the weights
    model = chosen_model(model, adapter, quiet)
    loaded_chat = None if load is None else Conversation.load(load)
    examples, system = shown_first(genre, few_shot, system)
    with waiting(tr("loading {model}", model=model), quiet):
        session = open_session(model, adapter, system, adapter_when=adapter_when)
    chat = Chat(session, ChatOptions(generation, session.context(context), examples))
    if loaded_chat is not None:
        chat.begin(loaded_chat)
    _talk(chat, _Console(as_json, quiet))


def _talk(chat: Chat, console: _Console) -> None:
    if console.is_terminal:
        with contextlib.suppress(ImportError):  # lines can be edited where the system has it
            import readline  # noqa: F401
        console.note(tr("Ctrl-D leaves, /help lists the commands"))
    while True:
        try:
            line = console.read().strip()
            if line.startswith("/"):
                _obey(chat, line, console)
            elif line:
                _answer(chat, line, console)
        except (EOFError, _LeaveError):
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
        if not stopped:
            warn_of_cut([document], chat.options.generation)
        warn_of_emptied(written)
        warn_of_damage(written.argmax_masked)


def _shown(turn: Turn, console: _Console) -> bool:
    """Show an answer as it is written. Returns: False when Ctrl-C stopped it."""
    try:
        with contextlib.closing(turn.pieces) as pieces:
            for text in pieces:
                if text and not console.as_json:
                    click.echo(text, nl=False)
    except KeyboardInterrupt:
        click.echo("" if console.as_json else " …", err=console.as_json)
        return False
    if not console.as_json:
        click.echo()
    return True


def _obey(chat: Chat, line: str, console: _Console) -> None:
    name, _, rest = line[1:].partition(" ")
    if name == "retry":
        _answer(chat, _prepared_retry(chat), console)
        return
    action = _ACTIONS.get(name)
    if action is None:
        raise InputError(tr("/{name}: no such command; /help lists them", name=name))
    said = action(chat, rest.strip())
    if said:
        console.note(said)


def _system(chat: Chat, text: str) -> str:
    if text:
        chat.begin(dataclasses.replace(chat.conversation, system=text))
    return tr("system prompt: {system}", system=chat.conversation.system or tr("(none)"))


def _prepared_retry(chat: Chat) -> str:
    """The last request, taken back with its answer, to be asked again."""
    if not chat.conversation.exchanges:
        raise InputError(tr("/retry: nothing was answered yet"))
    asked = chat.conversation.turns[-2].content
    chat.begin(chat.conversation.undone())
    options = chat.options.generation
    chat.set_generation(options.model_copy(update={"seed": options.seed + 1}))
    return asked


def _set(chat: Chat, text: str) -> str:
    name, _, value = text.partition(" ")
    given = (value,) if name == "stop" else value.strip()
    options = generation_options({name: given}, chat.options.generation)
    Scripts.parse(options.scripts)
    chat.set_generation(options)
    return f"{name}: {getattr(options, name)}"


def _undo(chat: Chat, _: str) -> str:
    if not chat.conversation.exchanges:
        return tr("there is nothing to take back")
    taken = chat.conversation.turns[-2].content
    chat.begin(chat.conversation.undone())
    return tr("taken back: {taken}", taken=taken)


def _reset(chat: Chat, _: str) -> str:
    from mlx_loopai.generation.chat import Conversation

    chat.begin(Conversation(chat.conversation.system))
    return tr("a new conversation")


def _save(chat: Chat, name: str) -> str:
    path = _named("save", name)
    try:
        chat.conversation.save(path)
    except OSError as error:
        raise InputError(
            tr("/save {path}: {strerror}; name another file", path=path, strerror=error.strerror)
        ) from None
    return f"{path}: {chat.conversation.exchanges} exchanges"


def _load(chat: Chat, name: str) -> str:
    from mlx_loopai.generation.chat import Conversation

    path = _named("load", name)
    chat.begin(Conversation.load(path))
    return f"{path}: {chat.conversation.exchanges} exchanges"


def _named(command: str, name: str) -> Path:
    if not name:
        raise InputError(tr("/{command}: which file? write /{command} FILE.jsonl", command=command))
    try:
        return Path(name).expanduser()
    except RuntimeError:  # ~name of a user that this machine does not have
        raise InputError(
            tr("/{command} {name}: there is no such home folder; name another file", command=command, name=name)
        ) from None


def _leave(chat: Chat, _: str) -> str:
    raise _LeaveError


_ACTIONS: dict[str, Callable[[Chat, str], str]] = {
    "help": lambda chat, _: tr(_HELP),
    "system": _system,
    "set": _set,
    "undo": _undo,
    "reset": _reset,
    "save": _save,
    "load": _load,
    "exit": _leave,
    "quit": _leave,
}
