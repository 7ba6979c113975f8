"""Reads a run's options from a recipe and from NAME=VALUE texts, and reports all problems in one line."""

from __future__ import annotations

import copy
import difflib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from mlx_loopai.config.options import PhaseOptions, RunConfig
from mlx_loopai.config.sources import SourceOptions
from mlx_loopai.errors import InputError, all_problems
from mlx_loopai.language import tr


def load_config(
    recipe: str | Path | None = None,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    base: Mapping[str, Any] | None = None,
) -> RunConfig:
    """The configuration of a recipe, with `overrides` applied; relative data paths start at the recipe's folder.

    overrides: by dotted name, such as {"train.learning_rate": 1e-4}, or texts such as "train.learning_rate=1e-4".
    base: values for options that the recipe, if there is one, does not set.

    Raises: InputError naming every problem (file, dotted key, reason, nearest key).
    """
    values: dict[str, Any] = copy.deepcopy(dict(base or {}))
    where = "options" if recipe is None else str(recipe)
    if recipe is not None:
        values |= _read_yaml(Path(recipe))
        _resolve_paths(values, Path(recipe).parent)
    named = overrides.items() if isinstance(overrides, Mapping) else map(_named_value, overrides)
    for name, value in named:
        _put(values, name, value)
    return validate_config(values, where)


def validate_config(values: dict[str, Any], where: str) -> RunConfig:
    """`values` as a RunConfig. Raises: InputError with all problems in one line."""
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        problems = [_explain(problem) for problem in error.errors()]
        raise InputError(f"{where}: {all_problems(problems)}") from None


def flatten(config: BaseModel, prefix: str = "") -> dict[str, Any]:
    """Dotted name -> value for every scalar option (lists and tables stay whole)."""
    flat: dict[str, Any] = {}
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def option_table() -> list[tuple[str, str, str]]:
    """(dotted name, default, description) of every option, for the command line's help and the documentation."""
    rows: list[tuple[str, str, str]] = []
    _collect(RunConfig, "", rows)
    return rows


def _collect(model: type[BaseModel], prefix: str, rows: list[tuple[str, str, str]]) -> None:
    for name, field in model.model_fields.items():
        if isinstance(field.default, BaseModel):
            _collect(type(field.default), f"{prefix}{name}.", rows)
        else:
            default = "" if field.default_factory or field.is_required() else json.dumps(field.default)
            rows.append((prefix + name, default, field.description or ""))


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        loaded = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        raise InputError(tr("{path}: no such recipe; give a YAML file or use `model` and `data`", path=path)) from None
    except OSError as error:
        raise InputError(
            tr("{path}: cannot be read: {strerror}; give a YAML file", path=path, strerror=error.strerror)
        ) from None
    except UnicodeDecodeError:
        raise InputError(tr("{path}: not UTF-8; save the recipe as UTF-8", path=path)) from None
    except yaml.YAMLError as error:
        raise InputError(tr("{path}: not valid YAML: {error}", path=path, error=" ".join(str(error).split()))) from None
    if not isinstance(loaded, dict):
        raise InputError(
            tr("{path}: a recipe is a table of options, got {name}", path=path, name=type(loaded).__name__)
        )
    return loaded


class _Loader(yaml.SafeLoader):
    """A loader that reads `1e-5` as a number; in YAML 1.1, which PyYAML follows, it is a string."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:float"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d+\.\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.inf|\.nan)$"),
    list("-+0123456789."),
)


def _resolve_paths(values: dict[str, Any], folder: Path) -> None:
    sources = values.get("sources")
    # Values that are not tables are reported by the validation.
    for source in sources.values() if isinstance(sources, dict) else ():
        if isinstance(source, dict) and isinstance(source.get("path"), str):
            source["path"] = _beside(source["path"], folder)
    for key in ("validation", "general"):
        if isinstance(values.get(key), str):
            values[key] = _beside(values[key], folder)


def _beside(path: str, folder: Path) -> str:
    if not path or path.startswith(("samples/", "hf:")) or Path(path).is_absolute():
        return path
    return str((folder / path).resolve())


def _named_value(override: str) -> tuple[str, Any]:
    """Name and value of a text such as `train.learning_rate=1e-4`."""
    name, equals, text = override.partition("=")
    if not equals:
        raise InputError(
            tr("`overrides` {override}: expected NAME=VALUE, such as train.learning_rate=1e-4", override=override)
        )
    try:
        return name.strip(), yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        raise InputError(
            tr(
                "`overrides` {override}: cannot read the value {text!r}; quote it as in YAML",
                override=override,
                text=text,
            )
        ) from None


def _put(values: dict[str, Any], name: str, value: Any) -> None:
    *parents, leaf = name.split(".")
    table = values
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise InputError(tr("`overrides` {name}: {parent} is a value, not a table", name=name, parent=parent))
    table[leaf] = copy.deepcopy(value)


def _explain(problem: Any) -> str:
    dotted = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = _keys_beside(problem["loc"])
        near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1, cutoff=0.5)
        return tr("unknown key {dotted}", dotted=dotted) + (
            tr("; did you mean {near}?", near=near[0]) if near else tr("; known: {known}", known=", ".join(known))
        )
    message = problem["msg"].removeprefix("Value error, ")
    if not dotted:
        return message
    return tr("{dotted}: {message} (got {problem!r})", dotted=dotted, message=message, problem=problem["input"])


def _keys_beside(location: tuple[int | str, ...]) -> list[str]:
    tables: dict[str, type[BaseModel]] = {"phases": PhaseOptions, "sources": SourceOptions}
    model: type[BaseModel] = RunConfig
    for part in location[:-1]:
        model = tables.get(str(part), model)
        field = model.model_fields.get(str(part))
        if field is not None and isinstance(field.default, BaseModel):
            model = type(field.default)
    return sorted(model.model_fields)
