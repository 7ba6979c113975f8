"""The commands of `chat`: lines that begin with /."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_loopai.config import generation_options
from mlx_loopai.errors import InputError
from mlx_loopai.language import later, tr
from mlx_loopai.text.alphabet import Scripts

if TYPE_CHECKING:
    from mlx_loopai.generation.chat import Chat

_HELP = later("""\
/retry           answer the last request anew, with another seed
/good /bad       keep the last answer as a good or a bad one, in the file of --feedback
/again           answer anew as /retry does; /good or /bad then keep which of the two is better
/edit TEXT       write the last answer as it should be; both are kept
/temperature N   how freely the model chooses: 0 always the likeliest word, 1 freely
/length N        end answers at the sentence that reaches N characters; 0: where the model ends them
/image FILE      show a picture (PNG, JPEG, WebP) with the next request; without FILE take back what waits
/set NAME VALUE  set any option of generation, such as /set max_tokens 300
/system TEXT     set the system prompt; without TEXT show it
/undo            take back the last request and its answer
/reset           start a new conversation
/export FILE.md  write the conversation as Markdown, to read
/save FILE.jsonl write it as a row that training reads; answers that were stopped or cut are not learnt
/load FILE.jsonl continue a saved conversation
/help            this list
Enter sends, Alt-Enter begins a new line; a paste of several lines is one request.
Ctrl-C stops an answer; Ctrl-D or /exit leaves. `mlx-loopai chat --continue` goes on with the last conversation.""")
RETRY = "retry"


class LeaveError(Exception):
    """The user asked to leave."""


def obey(chat: Chat, name: str, rest: str) -> str:
    """Carry out the command `name`. Returns: the message to show. Raises: InputError; LeaveError to end the chat."""
    action = _ACTIONS.get(name)
    if action is None:
        raise InputError(tr("/{name}: no such command; /help lists them", name=name))
    return action(chat, rest)


def prepared_retry(chat: Chat) -> str:
    """Take back the last exchange and return its request, to be asked again with another seed. Raises: InputError."""
    if not chat.conversation.exchanges:
        raise InputError(tr("/retry: nothing was answered yet"))
    asked = chat.conversation.turns[-2]
    chat.begin(chat.conversation.undone())
    chat.pictures = asked.pictures
    options = chat.options.generation
    chat.set_generation(options.model_copy(update={"seed": options.seed + 1}))
    return asked.content


def _system(chat: Chat, text: str) -> str:
    if text:
        chat.begin(dataclasses.replace(chat.conversation, system=text))
    return tr("system prompt: {system}", system=chat.conversation.system or tr("(none)"))


def _set(chat: Chat, text: str) -> str:
    name, _, value = text.partition(" ")
    given = (value,) if name == "stop" else value.strip()
    options = generation_options({name: given}, chat.options.generation)
    Scripts.parse(options.scripts)
    chat.set_generation(options)
    return f"{name}: {getattr(options, name)}"


def _temperature(chat: Chat, text: str) -> str:
    if not text:
        return f"temperature: {chat.options.generation.temperature}"
    return _set(chat, f"temperature {text}")


def _length(chat: Chat, text: str) -> str:
    if text:
        if not text.isdecimal():
            raise InputError(tr("/length {text}: not a number of characters; write such as /length 500", text=text))
        chat.options = dataclasses.replace(chat.options, length_chars=int(text))
    chars = chat.options.length_chars
    return tr("length: about {chars} characters", chars=chars) if chars else tr("length: where the model ends")


def _image(chat: Chat, name: str) -> str:
    from mlx_loopai.data.images import given_picture

    if name:
        chat.show(given_picture(_unquoted(name)))
    else:
        chat.pictures = ()
    waiting = ", ".join(picture.name for picture in chat.pictures)
    return tr("the next request shows: {pictures}", pictures=waiting or tr("no picture"))


def _unquoted(name: str) -> str:
    """The path of a file that was dropped on a terminal, which adds quotes, or a backslash before each space."""
    with contextlib.suppress(ValueError):
        parts = shlex.split(name)
        if len(parts) == 1:
            return parts[0]
    return name


def _undo(chat: Chat, _: str) -> str:
    if not chat.conversation.exchanges:
        return tr("there is nothing to take back")
    taken = chat.conversation.turns[-2].shown
    chat.begin(chat.conversation.undone())
    return tr("taken back: {taken}", taken=taken)


def _reset(chat: Chat, _: str) -> str:
    from mlx_loopai.generation.kept_conversation import Conversation

    chat.begin(Conversation(chat.conversation.system))
    return tr("a new conversation")


def _save(chat: Chat, name: str) -> str:
    path = _named("save", name, ".jsonl")
    try:
        chat.conversation.save(path)
    except OSError as error:
        raise _not_written("save", path, error) from None
    return _told(chat, path)


def _export(chat: Chat, name: str) -> str:
    from mlx_loopai.files import write_whole

    path = _named("export", name, ".md")
    if not chat.conversation.exchanges:
        raise InputError(tr("there is nothing to save yet"))
    if path.exists():
        raise InputError(tr("/export {path}: is already there and never overwritten; name another file", path=path))
    try:
        write_whole(path, chat.conversation.markdown())
    except OSError as error:
        raise _not_written("export", path, error) from None
    return _told(chat, path)


def _load(chat: Chat, name: str) -> str:
    from mlx_loopai.generation.kept_conversation import Conversation

    path = _named("load", name, ".jsonl")
    chat.begin(Conversation.load(path))
    return _told(chat, path)


def _told(chat: Chat, path: Path) -> str:
    return tr("{path}: {n} exchanges", path=path, n=chat.conversation.exchanges)


def _not_written(command: str, path: Path, error: OSError) -> InputError:
    reason = error.strerror
    return InputError(tr("/{command} {path}: {reason}; name another file", command=command, path=path, reason=reason))


def _named(command: str, name: str, ending: str) -> Path:
    """The file that a command names. Raises: InputError for none, another kind, or a home folder that is not there."""
    if not name:
        raise InputError(tr("/{command}: which file? write /{command} FILE{ending}", command=command, ending=ending))
    try:
        path = Path(name).expanduser()
    except RuntimeError:  # ~name of a user that this machine does not have
        raise InputError(
            tr("/{command} {name}: there is no such home folder; name another file", command=command, name=name)
        ) from None
    if path.suffix.lower() != ending:
        raise InputError(
            tr(
                "/{command} {name}: writes and reads {ending} files; write /{command} {stem}{ending}",
                command=command,
                name=name,
                ending=ending,
                stem=path.with_suffix(""),
            )
        )
    return path


def _leave(chat: Chat, _: str) -> str:
    raise LeaveError


_ACTIONS: dict[str, Callable[[Chat, str], str]] = {
    "help": lambda chat, _: tr(_HELP),
    "temperature": _temperature,
    "length": _length,
    "image": _image,
    "system": _system,
    "set": _set,
    "undo": _undo,
    "reset": _reset,
    "export": _export,
    "save": _save,
    "load": _load,
    "exit": _leave,
    "quit": _leave,
}
