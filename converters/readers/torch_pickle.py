"""The tensors that a torch pickle describes, without running it.

A pickle is a program. This reads its opcodes and builds plain values only: dictionaries, tuples, numbers, strings, and
descriptions of storages and tensors. The few callables that a state dict needs are recognised by name; any other name
is refused, so nothing in the file is ever called.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, BinaryIO

from mlx_loopai.errors import InputError
from mlx_loopai.language import tr

# torch's storage classes: our name of the type (None: never a weight) and the bytes of a value.
_STORAGES: dict[str, tuple[str | None, int]] = {
    "FloatStorage": ("F32", 4),
    "HalfStorage": ("F16", 2),
    "BFloat16Storage": ("BF16", 2),
    "DoubleStorage": (None, 8),
    "LongStorage": (None, 8),
    "IntStorage": (None, 4),
    "ShortStorage": (None, 2),
    "CharStorage": (None, 1),
    "ByteStorage": (None, 1),
    "BoolStorage": (None, 1),
}
_MAX_STACK = 1_000_000


@dataclass(frozen=True)
class Storage:
    """A storage of `n_values` values in the archive's member `data/KEY`. `dtype` is None for what is not a weight."""

    key: str
    dtype: str | None
    item_bytes: int
    n_values: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that begins `start` values into its storage; `strides` in values, from axis to axis."""

    storage: Storage
    start: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def in_order(self) -> bool:
        """Whether it is stored row by row (C order)."""
        step = 1
        for size, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if size > 1 and stride != step:
                return False
            step *= size
        return True


@dataclass(frozen=True)
class _Name:
    """A callable or class that the pickle names; never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"[:120]


class _Mark:
    pass


class _Damaged(Exception):
    """What is wrong with the pickle."""


def read_pickle(data: bytes | BinaryIO, where: str, max_steps: int, any_order: bool = False) -> Any:
    """The value that the pickle describes, with `StoredTensor` for tensors, in at most `max_steps` opcodes.

    A stream is left at the end of the pickle. any_order: tensors need not be stored row by row.

    Raises:
        InputError: the pickle is damaged, or names anything that a file of tensors does not need.
    """
    machine = _Machine(any_order)
    try:
        for step, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if opcode.name == "STOP":
                return machine.pop()
            if step >= max_steps:
                raise _Damaged("its pickle has more steps than its tensors need")
            machine.step(opcode.name, argument)
        raise _Damaged("it has no end")
    except _Damaged as error:
        raise InputError(
            tr("{where}: {error}; get the safetensors version of the model", where=where, error=error)
        ) from None
    # Opcodes in an order that no pickler writes: too few values on the stack, an unhashable key, a wrong type.
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, MemoryError, RecursionError):
        raise InputError(tr("{where}: its pickle is damaged; get a fresh copy of it", where=where)) from None


class _Machine:
    """The stack and the memo of a pickle."""

    def __init__(self, any_order: bool) -> None:
        self._any_order = any_order
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def pop(self) -> Any:
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        items: list[Any] = []
        while not isinstance(item := self.stack.pop(), _Mark):
            items.append(item)
        return items[::-1]

    def step(self, name: str, argument: Any) -> None:
        if len(self.stack) > _MAX_STACK:
            raise _Damaged("its pickle is larger than that of any model")
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _LITERALS:
            self.stack.append(argument)
        elif name in _STEPS:
            _STEPS[name](self, argument)
        else:
            raise _Damaged(f"its pickle uses {name}, which a file of tensors does not need")

    def set_items(self, pairs: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(pairs) % 2:
            raise _Damaged("its pickle is damaged")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            # Only these: hashing a deeply nested tuple would overflow the C stack.
            if not isinstance(key, str | int):
                raise _Damaged("its pickle has a key that is not a name")
            if key in target:
                raise _Damaged(f"the name {str(key)[:120]!r} occurs twice")
            target[key] = value

    def append(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise _Damaged("its pickle is damaged")
        self.stack[-1].extend(items)

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        found = _call(function, arguments)
        if isinstance(found, StoredTensor) and not (self._any_order or found.in_order):
            raise _Damaged("a tensor is not stored row by row (C order)")
        self.stack.append(found)

    def build(self) -> None:
        # An OrderedDict of torch carries its `_metadata` as attributes; they describe no tensor.
        state = self.pop()
        if not isinstance(self.stack[-1], dict) or not isinstance(state, dict):
            raise _Damaged("its pickle builds an object that is not a dictionary")

    def persistent(self) -> None:
        self.stack.append(_storage(self.pop()))

    def name(self) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise _Damaged("its pickle is damaged")
        self.stack.append(_Name(module, name))

    def tuple_of(self, count: int) -> None:
        items = [self.pop() for _ in range(count)]
        self.stack.append(tuple(items[::-1]))


_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "MARK": _Mark,
}
_LITERALS = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8".split()
)
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda machine, argument: None,
    "FRAME": lambda machine, argument: None,
    "GLOBAL": lambda machine, argument: machine.stack.append(_Name(*argument.split(" ", 1))),
    "STACK_GLOBAL": lambda machine, argument: machine.name(),
    "BINPUT": lambda machine, argument: machine.memo.update({argument: machine.stack[-1]}),
    "LONG_BINPUT": lambda machine, argument: machine.memo.update({argument: machine.stack[-1]}),
    "MEMOIZE": lambda machine, argument: machine.memo.__setitem__(len(machine.memo), machine.stack[-1]),
    "BINGET": lambda machine, argument: machine.stack.append(machine.memo[argument]),
    "LONG_BINGET": lambda machine, argument: machine.stack.append(machine.memo[argument]),
    "TUPLE": lambda machine, argument: machine.stack.append(tuple(machine.pop_to_mark())),
    "TUPLE1": lambda machine, argument: machine.tuple_of(1),
    "TUPLE2": lambda machine, argument: machine.tuple_of(2),
    "TUPLE3": lambda machine, argument: machine.tuple_of(3),
    "SETITEM": lambda machine, argument: machine.set_items([machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, argument: machine.set_items(machine.pop_to_mark()),
    "APPEND": lambda machine, argument: machine.append([machine.pop()]),
    "APPENDS": lambda machine, argument: machine.append(machine.pop_to_mark()),
    "REDUCE": lambda machine, argument: machine.reduce(),
    "BUILD": lambda machine, argument: machine.build(),
    "BINPERSID": lambda machine, argument: machine.persistent(),
}


def _call(function: Any, arguments: Any) -> Any:
    """What one of the known callables would give, as a plain value."""
    if not isinstance(function, _Name) or not isinstance(arguments, tuple):
        raise _Damaged("its pickle is damaged")
    name = str(function)
    if name == "collections.OrderedDict" and arguments in ((), ([],)):
        return {}
    if name == "torch._utils._rebuild_tensor_v2" and len(arguments) >= 4:
        return _tensor(*arguments[:4])
    if name == "torch._utils._rebuild_parameter" and arguments and isinstance(arguments[0], StoredTensor):
        return arguments[0]
    raise _Damaged(f"its pickle calls {name}, which a file of tensors does not need; nothing was run")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def _storage(found: Any) -> Storage:
    if not isinstance(found, tuple) or len(found) < 5 or found[0] != "storage" or not _is_count(found[4]):
        raise _Damaged("its pickle refers to something that is not a storage")
    kind, key = found[1], found[2]
    if not isinstance(kind, _Name) or kind.module != "torch" or kind.name not in _STORAGES or not isinstance(key, str):
        # Only a name is written out: a small pickle can describe a tuple whose text has no end.
        shown = str(kind) if isinstance(kind, _Name) else "no class"
        raise _Damaged(f"its pickle refers to a storage of the type {shown}")
    dtype, item_bytes = _STORAGES[kind.name]
    return Storage(key, dtype, item_bytes, found[4])


def _tensor(storage: Any, start: Any, shape: Any, strides: Any) -> StoredTensor:
    if not (isinstance(storage, Storage) and isinstance(shape, tuple) and isinstance(strides, tuple)):
        raise _Damaged("its pickle is damaged")
    if len(shape) > 8 or len(shape) != len(strides) or not all(map(_is_count, (start, *shape, *strides))):
        raise _Damaged("a tensor has an impossible shape")
    last = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) if prod(shape) else -1
    if start + last >= storage.n_values or prod(shape) > storage.n_values:
        raise _Damaged("a tensor is larger than its storage")
    return StoredTensor(storage, start, shape, strides)
