"""Proves of a chat template that it copies plain texts as they are.

Conversations of the same roles are then written alike but for their texts. The proof follows, through the whole
template, where the texts of messages may go. They may be joined with other texts and written; nothing else may depend
on them, except by questions that have the same answer for every plain text. What is not known here proves nothing.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from jinja2 import TemplateSyntaxError, nodes

from mlx_loopai.data.template_limits import parsed
from mlx_loopai.data.turn_forms import NOT_IN_PLAIN

# What a value may be. A higher kind holds the lower ones, up to TEXT.
# FIXED: the same in all conversations of the same roles. CONTENT: a message's text. TEXT: texts that were joined.
_Kind = IntEnum("_Kind", ["FIXED", "CONTENT", "TEXT", "MESSAGE", "MESSAGES"])
_FIXED, _CONTENT, _TEXT, _MESSAGE, _MESSAGES = _Kind

# Tests that look at a value's type.
_TYPE_TESTS = frozenset(("string", "defined", "undefined", "none", "mapping", "iterable", "sequence", "boolean"))
_FUNCTIONS = frozenset(("namespace", "range", "raise_exception"))  # not the time, for example
# What a loop tells of itself; its neighbours are messages.
_OF_LOOPS = frozenset(("index", "index0", "revindex", "revindex0", "first", "last", "length", "depth", "depth0"))
# What a message or a list of them can do, as values of Python.
_ABILITIES = frozenset((*dir(dict), *dir(list)))


class _UnprovenError(Exception):
    """The proof fails."""


def copies_plain_texts(template: str) -> bool:
    """Whether what `template` writes depends on the plain texts of messages only by copying them."""
    try:
        tree, proof = parsed(template), _Proof()
        known = -1
        while known != proof.certainty:  # a name may be used before it is set, in a loop
            known = proof.certainty
            proof.follow(tree.body)
    except (TemplateSyntaxError, RecursionError, _UnprovenError):
        return False
    return True


class _Proof:
    """What each name in a template may hold. A name that is not known is fixed."""

    def __init__(self) -> None:
        self._names = {"messages": _MESSAGES}

    @property
    def certainty(self) -> int:
        """Grows with everything that is found out."""
        return sum(self._names.values())

    def follow(self, body: list[nodes.Node]) -> None:
        """Go through statements. Raises: _UnprovenError."""
        for node in body:
            match node:
                case nodes.Output():
                    _require(all(self._kind(one) <= _TEXT for one in node.nodes))
                case nodes.If():
                    self._kind(node.test)  # no plain text is empty
                    self.follow([*node.body, *node.elif_, *node.else_])
                case nodes.For(target=nodes.Name(name=name), recursive=False):
                    kind = self._kind(node.iter)
                    _require(kind in (_FIXED, _MESSAGES))
                    self._set(name, _MESSAGE if kind == _MESSAGES else _FIXED)
                    _require(node.test is None or self._kind(node.test) == _FIXED)
                    self.follow([*node.body, *node.else_])
                case nodes.Assign(target=nodes.Name(name=name)):
                    self._set(name, self._kind(node.node))
                case nodes.Assign(target=nodes.NSRef()):
                    _require(self._kind(node.node) == _FIXED)
                case nodes.Continue() | nodes.Break():
                    pass
                case _:
                    raise _UnprovenError

    def _set(self, name: str, kind: _Kind) -> None:
        self._names[name] = _either(self._names.get(name, kind), kind)

    def _kind(self, node: nodes.Node) -> _Kind:
        match node:
            case nodes.Name():
                _require(node.name != "loop")
                return self._names.get(node.name, _FIXED)
            case nodes.Getattr():
                return self._part(node.node, node.attr)
            case nodes.Getitem(arg=nodes.Const(value=str(name))):
                return self._part(node.node, name)
            case nodes.Getitem():
                return self._item(node)
            case nodes.Call(node=nodes.Getattr(node=text, attr=name)) if self._kind(text) == _CONTENT:
                return _asked(node, name)
            case nodes.Call(node=nodes.Name(name=name)):
                _require(name in _FUNCTIONS)
            case nodes.Call():
                raise _UnprovenError
            case nodes.Add() | nodes.Concat():
                found = max(map(self._kind, node.iter_child_nodes()))
                _require(found <= _TEXT)
                return _FIXED if found == _FIXED else _TEXT
            case nodes.Compare(expr=nodes.Const() as left, ops=[nodes.Operand(op="in" | "notin", expr=right)]):
                kind = self._kind(right)
                _require(kind in (_FIXED, _MESSAGE) or (kind == _CONTENT and _is_strange(left)))
                return _FIXED
            case nodes.Test(name=name, args=[]) if name in _TYPE_TESTS:
                self._kind(node.node)
                return _FIXED
            case nodes.Filter(name="trim", args=[], node=nodes.Expr() as text):
                kind = self._kind(text)
                _require(kind <= _CONTENT)
                return kind
            case nodes.Filter(name="length", node=nodes.Expr() as text) if self._kind(text) == _MESSAGES:
                return _FIXED
            case nodes.And() | nodes.Or():
                return _either(self._kind(node.left), self._kind(node.right))
            case nodes.Not():
                self._kind(node.node)
                return _FIXED
            case nodes.CondExpr(expr2=nodes.Expr() as other):
                self._kind(node.test)
                return _either(self._kind(node.expr1), self._kind(other))
        _require(not (isinstance(node, nodes.Filter) and node.name == "random"))
        _require(all(self._kind(one) == _FIXED for one in node.iter_child_nodes()))
        return _FIXED

    def _part(self, whole: nodes.Node, name: str) -> _Kind:
        """That of `whole.name` or `whole["name"]`."""
        if isinstance(whole, nodes.Name) and whole.name == "loop":
            _require(name in _OF_LOOPS)
            return _FIXED
        kind = self._kind(whole)
        _require(kind == _FIXED or (kind == _MESSAGE and name not in _ABILITIES))
        return _CONTENT if kind == _MESSAGE and name == "content" else _FIXED

    def _item(self, node: nodes.Getitem) -> _Kind:
        """That of `list[number]`, `list[from:to]`, or a part of a text that was divided."""
        _require(self._kind(node.arg) == _FIXED)
        is_slice = isinstance(node.arg, nodes.Slice)
        match node.node:
            case nodes.Call(node=nodes.Getattr(node=text, attr="split")) if self._kind(text) == _CONTENT:
                _require(not is_slice and len(_arguments(node.node)) == 1 and all(map(_is_strange, node.node.args)))
                return _CONTENT
        kind = self._kind(node.node)
        _require(kind in (_FIXED, _MESSAGES))
        return _MESSAGE if kind == _MESSAGES and not is_slice else kind


def _asked(call: nodes.Call, name: str) -> _Kind:
    """That of what a method of a message's text gives."""
    given = _arguments(call)
    if name in ("strip", "lstrip", "rstrip"):
        _require(all(isinstance(text, str) and text.isspace() for text in given))
        return _CONTENT
    _require(name in ("startswith", "endswith") and all(map(_is_strange, call.args)))
    return _FIXED


def _arguments(call: nodes.Call) -> list[Any]:
    """Its arguments, where all are constants."""
    _require(not (call.kwargs or call.dyn_args or call.dyn_kwargs))
    found = [one.value for one in call.args if isinstance(one, nodes.Const)]
    _require(len(found) == len(call.args))
    return found


def _is_strange(node: Any) -> bool:
    """Whether it is a text that is in no plain text."""
    return isinstance(node, nodes.Const) and isinstance(node.value, str) and NOT_IN_PLAIN in node.value


def _either(one: _Kind, other: _Kind) -> _Kind:
    """That of a value which may be either."""
    _require(one == other or max(one, other) <= _TEXT)
    return max(one, other)


def _require(holds: bool) -> None:
    if not holds:
        raise _UnprovenError
