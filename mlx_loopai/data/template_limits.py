"""Limits the time and memory of chat templates, which are programs that come with a model."""

from __future__ import annotations

import ctypes
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mlx_loopai.errors import InputError
from mlx_loopai.language import tr

# A conversation of 25,000 turns takes less than two seconds.
MOST_S = 30.0
_CHECKED_EVERY_S = 0.5
# Longer than any text that a template writes itself, and larger than any number in it, such as a date.
_MOST_CHARACTERS, _LARGEST_NUMBER = 1 << 20, 10**9
# transformers' own tag, around what the model says; it changes nothing that is written.
_GENERATION = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")


class TemplateTooSlowError(Exception):
    """A template was stopped."""


def require_modest(template: str) -> None:
    """Refuse a template with a constant expression that makes a huge text or number.

    Jinja evaluates constants when it compiles a template, before anything could stop it.

    Raises: InputError.
    """
    # Not needed by those who only read rows.
    from jinja2 import TemplateSyntaxError, nodes

    try:
        tree = parsed(template)
    except (TemplateSyntaxError, RecursionError):
        return  # rendering it reports this
    numbers = (node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, int))
    if (
        any(abs(number) > _LARGEST_NUMBER for number in numbers)
        or any(_size(node) > _MOST_CHARACTERS for node in tree.find_all(nodes.Mul))
        or any(tree.find_all(nodes.Pow))
    ):
        raise InputError(tr("the chat template repeats a text beyond all measure; do not trust this model"))


def parsed(template: str) -> Any:
    """Jinja's tree of a template, a `jinja2.nodes.Template`. Raises: jinja2.TemplateSyntaxError, RecursionError."""
    from jinja2 import Environment

    return Environment(extensions=["jinja2.ext.loopcontrols"]).parse(_GENERATION.sub("", template))


def _size(node: object) -> int:
    """Upper bound of a constant expression: a number's value, or a text's length; 1 for what is not constant."""
    from jinja2 import nodes

    if isinstance(node, nodes.Const):
        return len(node.value) if isinstance(node.value, str) else abs(int(node.value or 0))
    if isinstance(node, nodes.Mul):
        return _size(node.left) * _size(node.right)
    if isinstance(node, nodes.List | nodes.Tuple):
        return len(node.items)
    return 1


@contextmanager
def limited(seconds: float = MOST_S) -> Iterator[None]:
    """Let Python code in the block run this long; templates are Python code.

    Raises: TemplateTooSlowError inside the block when time is up.
    """
    me = threading.get_ident()
    _watch.begin(me, time.monotonic() + seconds)
    try:
        yield
    finally:
        _watch.end(me)


class _Watch:
    """Raises `TemplateTooSlowError` in threads whose time is up; its own thread lives while there is one to watch."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._deadlines: dict[int, float] = {}
        self._is_running = False

    def begin(self, thread: int, deadline: float) -> None:
        with self._lock:
            self._deadlines[thread] = deadline
            if not self._is_running:
                self._is_running = True
                threading.Thread(target=self._run, name="chat template watch", daemon=True).start()

    def end(self, thread: int) -> None:
        with self._lock:
            if self._deadlines.pop(thread, None) is None:
                _raise_in(thread, None)  # it may not have arrived yet, and must not arrive anywhere else

    def _run(self) -> None:
        while True:
            time.sleep(_CHECKED_EVERY_S)
            with self._lock:
                if not self._deadlines:
                    self._is_running = False
                    return
                now = time.monotonic()
                for thread in [thread for thread, deadline in self._deadlines.items() if now > deadline]:
                    del self._deadlines[thread]
                    _raise_in(thread, TemplateTooSlowError)


def _raise_in(thread: int, error: type[Exception] | None) -> None:
    raised = None if error is None else ctypes.py_object(error)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), raised)


_watch = _Watch()
