"""JSON files as frozen values: written with a format number, read back strictly, with the file named in each error."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, ConfigDict, StrictFloat, StrictInt, TypeAdapter, ValidationError

from mlx_loopai.errors import InputError, all_problems
from mlx_loopai.files import write_whole
from mlx_loopai.language import later, tr

WRITE_AGAIN = later("write it again with the command it came from")


def finite(value: Any) -> Any:
    """`value`, and None for a number that is not finite."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


# Python's JSON may hold NaN, such as the loss of a skipped step; it is read as None.
Figure = Annotated[StrictFloat | None, BeforeValidator(finite)]
Count = StrictInt | None
Interval = tuple[StrictFloat, StrictFloat] | None


class Part:
    """Base class of frozen dataclasses inside a document. An unknown key is an error."""

    __pydantic_config__ = ConfigDict(extra="forbid")


class Document(Part):
    """Base class of frozen dataclasses that are JSON files of their own."""

    FORMAT: ClassVar[int] = 1

    def to_json(self) -> dict[str, Any]:
        """The document as plain JSON values, its format number first; figures that are not finite are null."""
        return {"format": self.FORMAT, **json.loads(_adapter(type(self)).dump_json(self))}

    @classmethod
    def from_json(cls, document: Any, place: str) -> Self:
        """The typed document. Raises: InputError with all problems, naming `place` and the key of each."""
        if not isinstance(document, Mapping):
            raise InputError(
                tr(
                    "{place}: expected a table, got {kind}; was this file written by mlx-loopai?",
                    place=place,
                    kind=_kind(document),
                )
            )
        values = {str(key): value for key, value in document.items()}
        written = values.pop("format", cls.FORMAT)
        if not isinstance(written, int) or written > cls.FORMAT:
            raise InputError(
                tr(
                    "{place}: format {written!r} is not one that this mlx-loopai reads (up to {newest}); update it, "
                    "or {write_again}",
                    place=place,
                    written=written,
                    newest=cls.FORMAT,
                    write_again=tr(WRITE_AGAIN),
                )
            )
        try:
            return _adapter(cls).validate_python(values)
        except ValidationError as error:
            problems = all_problems(_explained(error, _keys(cls)))
            raise InputError(
                tr("{place}: {problems}; was this file written by mlx-loopai?", place=place, problems=problems)
            ) from None

    @classmethod
    def read(cls, path: Path) -> Self:
        """The document in the file `path`. Raises: InputError."""
        return cls.from_json(read_json(path), str(path))

    def write(self, path: Path, indent: int | None = None) -> None:
        """Write `path` whole or not at all; in one line, or indented by that many spaces."""
        write_whole(path, json.dumps(self.to_json(), ensure_ascii=False, indent=indent, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """What the JSON file `path` holds. Raises: InputError with the line of what is wrong; FileNotFoundError."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(
            tr(
                "{path}:{lineno}: not JSON: {reason}; {write_again}",
                path=path,
                lineno=error.lineno,
                reason=error.msg,
                write_again=tr(WRITE_AGAIN),
            )
        ) from None
    except RecursionError:
        raise InputError(tr("{path}: nested too deeply to be a document of mlx-loopai", path=path)) from None


def read_text(path: Path) -> str:
    """The UTF-8 text of `path`. Raises: InputError when it cannot be read; FileNotFoundError."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            tr("{path}: byte {start} is not UTF-8; give a file that mlx-loopai wrote", path=path, start=error.start)
        ) from None
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(
            tr(
                "{path}: cannot be read: {reason}; {write_again}",
                path=path,
                reason=error.strerror,
                write_again=tr(WRITE_AGAIN),
            )
        ) from None


_ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {}


def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    """pydantic's reader and writer of a dataclass; made once, since it is slow to make."""
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def _keys(kind: type[Any]) -> list[str]:
    """Every key of the document and of its parts."""
    schema = _adapter(kind).json_schema()
    return sorted({key for part in (schema, *schema.get("$defs", {}).values()) for key in part.get("properties", ())})


def _explained(error: ValidationError, keys: list[str]) -> Iterator[str]:
    for problem in error.errors():
        name = ".".join(map(str, problem["loc"]))
        name = name if name.isprintable() else repr(name)  # an error is one line
        if problem["type"] == "missing":
            yield tr("{name} is missing", name=name)
        elif problem["type"] == "unexpected_keyword_argument":
            near = difflib.get_close_matches(str(problem["loc"][-1]), keys, n=1, cutoff=0.6)
            yield tr("unknown key {name}", name=name) + (tr("; did you mean {near}?", near=near[0]) if near else "")
        else:
            expected = _EXPECTED.get(problem["type"])
            wrong = (
                tr("expected {expected}, got {kind}", expected=expected, kind=_kind(problem["input"]))
                if expected
                else problem["msg"]
            )
            yield f"{name}: {wrong}"


_EXPECTED = {
    "dataclass_type": "a table",
    "dict_type": "a table",
    "mapping_type": "a table",
    "tuple_type": "a list",
    "float_type": "a number",
    "int_type": tr("a whole number"),
    "string_type": "a text",
    "bool_type": tr("true or false"),
}
_KINDS = {
    dict: tr("a table"),
    list: tr("a list"),
    tuple: tr("a list"),
    str: tr("a text"),
    bool: tr("true or false"),
    type(None): "null",
}


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "a number")
