"""Suites of evaluation tasks: those of the embedded model, the shipped questions for any model, and users' own files.

A suite file is YAML, one task a name; files are relative to it:

    general:  {kind: general}
    copa:     {kind: choice, file: COPA_dev.tsv, limit: 200}
    qa:       {kind: generate, file: qa.jsonl, match: word, language: ko, max_tokens: 48}
    pictures: {kind: caption, file: captions.jsonl}
    dialogue: {kind: nll, file: dialogue.jsonl, limit: 100}
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from mlx_loopai.data.records import read_records
from mlx_loopai.data.samples import corpus, skills
from mlx_loopai.data.samples.skills import Item
from mlx_loopai.errors import InputError, all_problems
from mlx_loopai.evaluation.choices import read_choices
from mlx_loopai.evaluation.questions import (
    QUESTION_JUDGE,
    Language,
    Match,
    Question,
    exchanged,
    general_questions,
    read_questions,
)
from mlx_loopai.evaluation.skill_judge import SKILL_JUDGE
from mlx_loopai.evaluation.tasks import ANSWER_TOKENS, Asked, Chosen, Scored, Task
from mlx_loopai.language import tr
from mlx_loopai.models.load import NANO, NANO_FOLDER

GENERAL = "general"
# The embedded suite's text for perplexity: hand-written, and never seen in pretraining.
HELD_OUT = "held_out"
# What the name of a caption task's control ends with.
SHUFFLED = "_shuffled"
LEAST_NANO_ITEMS, MOST_NANO_ITEMS = 200, 240
_SAMPLE_SEED = 20264
_T = TypeVar("_T")


class TaskOptions(BaseModel):
    """One task as the suite file gives it."""

    model_config = ConfigDict(extra="forbid")
    kind: Literal["general", "generate", "caption", "choice", "nll"]
    file: str = ""
    limit: int | None = Field(None, ge=1)
    max_tokens: int = Field(ANSWER_TOKENS, ge=1)
    match: Match = "word"
    language: Language = "any"

    @model_validator(mode="after")
    def _has_file(self) -> TaskOptions:
        if self.kind != GENERAL and not self.file:
            raise ValueError(tr("kind {kind} needs a file", kind=self.kind))
        return self


def default_suite(model: Path) -> str:
    """`nano` for the embedded model and models made from it, which share its tokenizer; `general` for any other."""
    try:
        return NANO if _tokenizer(model) == _tokenizer(NANO_FOLDER) else GENERAL
    except OSError:
        return GENERAL


def read_suite(named: str, limit: int | None = None) -> list[Task]:
    """The tasks of the suite `nano` or `general`, or of a YAML file; at most `limit` items each, seeded.

    Raises: InputError with every problem of the suite file, or of the first data file that has any.
    """
    if named == NANO:
        return _nano(limit)
    if named == GENERAL:
        return _general(ANSWER_TOKENS, limit)
    path = Path(named)
    return [task for name, options in _options(path).items() for task in _tasks(name, options, path.parent, limit)]


def nano_tasks() -> list[Asked[Item]]:
    """One task for each skill of the embedded model, 200 to 240 questions each (a seeded sample where there are more).

    Made for the embedded model: half of the facts are invented, and no other model can know them.
    """
    return [_nano_task(skill) for skill in skills.SKILLS]


@cache
def _nano_task(skill: str) -> Asked[Item]:
    items = sampled(skills.items(skill, probe=True), MOST_NANO_ITEMS)
    if len(items) < LEAST_NANO_ITEMS:
        raise ValueError(
            tr(
                "task {skill}: {n_items} items, at least {least} are needed",
                skill=skill,
                n_items=len(items),
                least=LEAST_NANO_ITEMS,
            )
        )
    return Asked.of(skill, items, SKILL_JUDGE)


def _nano(limit: int | None) -> list[Task]:
    """The embedded tasks, of at most `limit` questions each; the chance level stays that of the whole task."""
    asked = [replace(task, items=sampled(task.items, limit)) for task in nano_tasks()]
    return [*asked, Scored(HELD_OUT, tuple(corpus.held_out_texts()))]


def _options(path: Path) -> dict[str, TaskOptions]:
    try:
        document: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            tr("`suite` {path}: no such file; give a suite file, or {general}", path=path, general=GENERAL)
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(
            tr("`suite` {path}: cannot be read: {error}; mend the file", path=path, error=" ".join(str(error).split()))
        ) from None
    if not isinstance(document, dict) or not document:
        raise InputError(
            tr("`suite` {path}: must name tasks, such as 'qa: {{kind: generate, file: qa.jsonl}}'", path=path)
        )
    try:
        return TypeAdapter(dict[str, TaskOptions]).validate_python(document)
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise InputError(tr("`suite` {path}: {problems}", path=path, problems=all_problems(problems))) from None


def _tasks(name: str, options: TaskOptions, folder: Path, limit: int | None) -> list[Task]:
    path = folder / Path(options.file).expanduser()
    if options.kind == "general":
        return _general(options.max_tokens, options.limit, limit)
    if options.kind == "generate":
        questions = _sampled(read_questions(path, options.match, options.language), options.limit, limit)
        return [Asked.of(name, questions, QUESTION_JUDGE, options.max_tokens)]
    if options.kind == "caption":
        questions = _sampled(read_questions(path, options.match, options.language), options.limit, limit)
        return _captions(name, path, questions, options.max_tokens)
    if options.kind == "choice":
        return [Chosen(name, _sampled(read_choices(path), options.limit, limit))]
    return [Scored(name, _sampled(read_records(path, name), options.limit, limit))]


def _general(max_tokens: int, *limits: int | None) -> list[Task]:
    kinds = general_questions().items()
    return [Asked.of(kind, _sampled(questions, *limits), QUESTION_JUDGE, max_tokens) for kind, questions in kinds]


def _captions(name: str, path: Path, questions: Sequence[Question], max_tokens: int) -> list[Task]:
    """The task of what the pictures show, and its control: the same questions with each other's pictures.

    Raises: InputError for a question without a picture, or pictures that all have one name.
    """
    if not all(question.pictures for question in questions):
        raise InputError(tr("{path}: kind caption: every question needs its `images`", path=path))
    try:
        control = exchanged(questions)
    except ValueError as reason:
        raise InputError(f"{path}: {reason}") from None
    return [
        Asked.of(name, questions, QUESTION_JUDGE, max_tokens),
        Asked.of(f"{name}{SHUFFLED}", control, QUESTION_JUDGE, max_tokens),
    ]


def _sampled(items: Sequence[_T], *limits: int | None) -> tuple[_T, ...]:
    """The items under each limit in turn: the suite's own first, so that a quick look is a part of the suite."""
    for limit in limits:
        items = sampled(items, limit)
    return tuple(items)


def sampled(items: Sequence[_T], limit: int | None) -> tuple[_T, ...]:
    """At most `limit` of the items, in their order; always the same ones."""
    if limit is None or len(items) <= limit:
        return tuple(items)
    chosen = sorted(random.Random(_SAMPLE_SEED).sample(range(len(items)), limit))
    return tuple(items[place] for place in chosen)


def _tokenizer(model: Path) -> bytes:
    return (model / "tokenizer.json").read_bytes()
