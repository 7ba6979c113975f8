"""Suites: what to measure a real model on, from the user's own files or the shipped questions.

A suite file is YAML, one task a name; files are relative to it:

    general:  {kind: general}
    copa:     {kind: choice, file: COPA_dev.tsv, limit: 200}
    qa:       {kind: generate, file: qa.jsonl, match: word, language: ko, max_tokens: 48}
    dialogue: {kind: nll, file: dialogue.jsonl, limit: 100}
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from mlx_loopai.data.records import Record, read_records
from mlx_loopai.errors import InputError, all_problems
from mlx_loopai.evaluation.choices import Choice, read_choices
from mlx_loopai.evaluation.questions import Language, Match, Question, general_questions, read_questions

GENERAL = "general"
ANSWER_TOKENS = 48
_SAMPLE_SEED = 20264
_T = TypeVar("_T")


class TaskOptions(BaseModel):
    """One task as the suite file gives it."""

    model_config = ConfigDict(extra="forbid")
    kind: Literal["general", "generate", "choice", "nll"]
    file: str = ""
    limit: int | None = Field(None, ge=1)
    max_tokens: int = Field(ANSWER_TOKENS, ge=1)
    match: Match = "word"
    language: Language = "any"

    @model_validator(mode="after")
    def _has_file(self) -> TaskOptions:
        if self.kind != GENERAL and not self.file:
            raise ValueError(f"kind {self.kind} needs a file")
        return self


@dataclass(frozen=True)
class Asked:
    """Free answers."""

    name: str
    items: tuple[Question, ...]
    max_tokens: int = ANSWER_TOKENS


@dataclass(frozen=True)
class Chosen:
    """Multiple choice."""

    name: str
    items: tuple[Choice, ...]


@dataclass(frozen=True)
class Scored:
    """Rows whose likelihood stands beside the answers, never in the retention."""

    name: str
    items: tuple[Record, ...]


Task = Asked | Chosen | Scored


def read_suite(named: str, limit: int | None = None) -> list[Task]:
    """The tasks of the suite `general` or of a YAML file; at most `limit` items each, seeded.

    Raises: InputError with every problem of the suite file, or of the first data file that has any.
    """
    if named == GENERAL:
        found = _general(ANSWER_TOKENS)
    else:
        path = Path(named)
        found = [task for name, options in _options(path).items() for task in _tasks(name, options, path.parent)]
    return [sampled(task, limit) for task in found]


def sampled(task: Task, limit: int | None) -> Task:
    """The task with at most `limit` of its items, in their order; the same ones every time."""
    if isinstance(task, Asked):
        return replace(task, items=_sample(task.items, limit))
    if isinstance(task, Chosen):
        return replace(task, items=_sample(task.items, limit))
    return replace(task, items=_sample(task.items, limit))


def _options(path: Path) -> dict[str, TaskOptions]:
    try:
        document: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"`suite` {path}: no such file; give a suite file, or {GENERAL}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"`suite` {path}: cannot be read: {' '.join(str(error).split())}; mend the file") from None
    if not isinstance(document, dict) or not document:
        raise InputError(f"`suite` {path}: must name tasks, such as 'qa: {{kind: generate, file: qa.jsonl}}'")
    try:
        return TypeAdapter(dict[str, TaskOptions]).validate_python(document)
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise InputError(f"`suite` {path}: {all_problems(problems)}") from None


def _tasks(name: str, options: TaskOptions, folder: Path) -> list[Task]:
    path = folder / Path(options.file).expanduser()
    if options.kind == "general":
        found = _general(options.max_tokens)
    elif options.kind == "generate":
        questions = read_questions(path, options.match, options.language)
        found = [Asked(name, tuple(questions), options.max_tokens)]
    elif options.kind == "choice":
        found = [Chosen(name, tuple(read_choices(path)))]
    else:
        found = [Scored(name, tuple(read_records(path, name)))]
    return [sampled(task, options.limit) for task in found]


def _general(max_tokens: int) -> list[Task]:
    return [Asked(kind, tuple(questions), max_tokens) for kind, questions in general_questions().items()]


def _sample(items: Sequence[_T], limit: int | None) -> tuple[_T, ...]:
    if limit is None or len(items) <= limit:
        return tuple(items)
    chosen = sorted(random.Random(_SAMPLE_SEED).sample(range(len(items)), limit))
    return tuple(items[place] for place in chosen)
