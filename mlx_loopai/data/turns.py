"""Reads one turn of a conversation in the formats of OpenAI, ShareGPT and similar data."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from mlx_loopai.data.conversation import PICTURE, ROLES, Message
from mlx_loopai.language import later, tr

_ROLES = {role: role for role in ROLES} | {"developer": "system", "model": "assistant", "function": "tool"}
_FROM = _ROLES | {
    "human": "user", "gpt": "assistant", "chatgpt": "assistant", "observation": "tool", "function_call": "assistant"
}  # fmt: skip
_WEIGHTS = ("weight", "train", "loss")
_THINKING = ("reasoning_content", "reasoning", "thinking")
_INLINE_THINKING = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)


class UnreadableError(Exception):
    """Why a row cannot be read as a record. `empty`: only because one of its answers is empty."""

    def __init__(self, reason: str, empty: bool = False) -> None:
        super().__init__(reason)
        self.empty = empty


def read_turn(turn: Any, number: int, unused: set[str]) -> Message:
    """The turn with the 1-based `number`; names of fields that nothing reads are added to `unused`.

    Raises: UnreadableError saying what is wrong with it.
    """
    if not isinstance(turn, Mapping):
        raise UnreadableError(
            tr("turn {number} must be an object with role and content, got {kind}", number=number, kind=kind_of(turn))
        )
    fields = {str(name): value for name, value in turn.items() if value is not None}
    role_name, content_name, roles = ("role", "content", _ROLES)
    if "role" not in turn and "from" in turn:
        role_name, content_name, roles = ("from", "value", _FROM)
    found = fields.get(role_name)
    if not isinstance(found, str) or found not in roles:
        raise UnreadableError(
            tr(
                "turn {number} has the wrong role {found!r:.60}; expected one of {roles}",
                number=number,
                found=found,
                roles=", ".join(roles),
            )
        )
    role, used = roles[found], {role_name, content_name}
    if role != "assistant":
        used |= set(_WEIGHTS)
        name = _name(fields, used) if role == "tool" else ""
        unused |= fields.keys() - used
        return Message(role, _content(turn.get(content_name), number, content_name), name=name)
    calls, raw = _calls(fields, found, content_name, number, used)
    content = "" if raw is None and calls else _content(raw, number, content_name)
    thinking, content = _thinking(fields, content, number, used)
    taught = _taught(fields, number, used)
    unused |= fields.keys() - used
    return Message(role, content, taught=taught, thinking=thinking, tool_calls=calls)


def is_answer(turn: Any) -> bool:
    """Whether a turn that was not read yet is an answer."""
    return isinstance(turn, Mapping) and str(turn.get("role", turn.get("from"))) in ("assistant", "model", "gpt")


def _name(fields: Mapping[str, Any], used: set[str]) -> str:
    used |= {"name", "tool_call_id"}
    return fields["name"] if isinstance(fields.get("name"), str) else ""


def _content(value: Any, number: int, name: str) -> str:
    """A text, or the texts of parts one after the other, with `PICTURE` for each picture among them."""
    if not isinstance(value, list):
        return read_text(value, later("turn {number}'s {name}"), number=number, name=name)
    texts = []
    for part in value:
        kind = part.get("type", "text") if isinstance(part, Mapping) else "text"
        if kind == "image":
            texts.append(PICTURE)
            continue
        text = part.get("text") if isinstance(part, Mapping) else part
        if kind != "text" or not isinstance(text, str):
            raise UnreadableError(
                tr(
                    "turn {number} has a part of the type {kind!r:.40}; text and image are read",
                    number=number,
                    kind=kind,
                )
            )
        texts.append(read_text(text, later("turn {number}'s {name}"), number=number, name=name))
    return "".join(texts)


def _calls(fields: Mapping[str, Any], role: str, content_name: str, number: int, used: set[str]) -> tuple[str, Any]:
    """(JSON text of the turn's calls, what is left as its content)."""
    content = fields.get(content_name)
    if role == "function_call":
        return _as_calls([_parsed(content)], number), None
    found = _parsed(fields.get("tool_calls"))
    used.add("tool_calls")
    if isinstance(fields.get("function_call"), Mapping):  # OpenAI's older form
        used.add("function_call")
        found = [fields["function_call"]]
    return (_as_calls(found, number) if found else ""), content


def _as_calls(found: Any, number: int) -> str:
    calls = []
    for call in found if isinstance(found, list) else [found]:
        function = call.get("function", call) if isinstance(call, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(name, str) or not name:
            raise UnreadableError(tr("turn {number} has a tool call without a function's name", number=number))
        arguments = _parsed(function.get("arguments", {}))
        if not isinstance(arguments, Mapping):
            raise UnreadableError(
                tr("turn {number}'s call of {name} has arguments that are not an object", number=number, name=name[:40])
            )
        # Templates write arguments as JSON themselves.
        calls.append({"name": name, "arguments": arguments})
    try:
        return json.dumps(calls, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        raise UnreadableError(tr("turn {number} has tool calls that are not JSON", number=number)) from None


def _parsed(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _thinking(fields: Mapping[str, Any], content: str, number: int, used: set[str]) -> tuple[str, str]:
    """(what was thought, the answer): from a field of its own, or from a block at the answer's beginning."""
    name = next((name for name in _THINKING if name in fields), None)
    if name is not None:
        used.add(name)
        thought = read_text(fields[name], later("turn {number}'s {name}"), number=number, name=name)
        return thought.strip(), content
    inline = _INLINE_THINKING.match(content)
    return (inline[1].strip(), content[inline.end() :]) if inline else ("", content)


def _taught(fields: Mapping[str, Any], number: int, used: set[str]) -> bool:
    """Whether the turn is learnt, by OpenAI's `weight`, axolotl's `train` or ms-swift's `loss`."""
    taught = True
    for name in _WEIGHTS:
        if name not in fields:
            continue
        used.add(name)
        if fields[name] not in (0, 1):
            raise UnreadableError(
                tr(
                    "turn {number}'s {name} is {shown}; 0 and 1 are known",
                    number=number,
                    name=name,
                    shown=str(fields[name])[:20],
                )
            )
        taught = taught and bool(fields[name])
    return taught


def read_text(value: Any, called: str, **values: Any) -> str:
    """`value`, which must be text.

    called: its name in errors, or with `values` a message for `tr`, which is completed only for a wrong value.

    Raises: UnreadableError with that name.
    """
    if not isinstance(value, str):
        raise UnreadableError(tr("{name} must be text, got {kind}", name=_named(called, values), kind=kind_of(value)))
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UnreadableError(
            tr("{name} holds half of a surrogate pair, which is not a character", name=_named(called, values))
        ) from None
    # The mark of a picture must come from a picture only, never from a text.
    return value.replace(PICTURE, "")


def _named(called: str, values: Mapping[str, Any]) -> str:
    return tr(called, **values) if values else called


def kind_of(value: Any) -> str:
    """What a JSON value is, in a word."""
    names = {
        str: tr("text"),
        bool: tr("a truth value"),
        int: tr("a number"),
        float: tr("a number"),
        list: tr("a list"),
        dict: tr("an object"),
    }
    return names.get(type(value), tr("nothing") if value is None else type(value).__name__)
