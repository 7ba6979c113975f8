"""Questions with accepted answers, for any model: reads them, and judges a model's free answers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

from mlx_loopai.data.formats import read_rows
from mlx_loopai.data.images import Picture, picture_in
from mlx_loopai.data.samples.composed_questions import composed_questions
from mlx_loopai.data.shapes import ANSWER_NAMES, REQUEST_NAMES
from mlx_loopai.errors import InputError, all_problems
from mlx_loopai.evaluation.forms import EXAMPLES, holds_form
from mlx_loopai.evaluation.judge import Judge, Verdict, malformed
from mlx_loopai.evaluation.matching import folded, numbers, stands
from mlx_loopai.language import tr
from mlx_loopai.text.scripts import Script, script_counts

Match = Literal["word", "contains", "exact", "number"]
Language = Literal["any", "ko", "en", "zh"]

GENERAL_FILE = "general_questions.jsonl"
# Least share of letters of the expected script. Answers may quote names and terms of other scripts.
MIN_SHARE = 0.7
_ACCEPTED_NAMES = ("accepts", "answers", *ANSWER_NAMES)
_SCRIPTS = {"ko": Script.HANGUL, "en": Script.LATIN, "zh": Script.HAN}
_EDGES = re.compile(r"^[\s\W_]+|[\s\W_]+$")


@dataclass(frozen=True)
class Question:
    """A question with its accepted answers.

    match: how an accepted value is searched (`holds`). language: of the answer. kind: the question's group. form: a key
    of `forms.EXAMPLES`, whose form the answer must have; "": none. With a form, `accepts` may be empty. pictures: those
    that the question shows.
    """

    prompt: str
    accepts: tuple[str, ...]
    match: Match = "word"
    language: Language = "any"
    kind: str = ""
    form: str = ""
    pictures: tuple[Picture, ...] = ()

    @property
    def scripts(self) -> frozenset[Script]:
        """The scripts without which no answer is right: of its language, and those that all accepted values hold."""
        values = [frozenset(Script(name) for name in script_counts(value)) for value in self.accepts]
        shared = frozenset[Script]().union(*values).intersection(*values)
        return shared | ({_SCRIPTS[self.language]} if self.language in _SCRIPTS else set())


def judge_answer(question: Question, text: str, finished: bool = True) -> Verdict:
    """Whether `text` answers the question in the right form; a broken answer is never right.

    `finished` is ignored: real models explain their answers, and the value usually comes first. Besides the values of
    `judge.malformed`, an answer's `broken` may be "language".
    """
    answer = text.strip()
    broken = malformed(answer, json_asked=question.form == "json")
    if broken is None and not _in_language(question, answer):
        broken = "language"
    return Verdict(broken is None and holds(question, answer), broken)


def holds(question: Question, text: str) -> bool:
    """Whether `text` has the form that was asked for and holds an accepted value.

    match: word: as a whole word, which a Korean particle may follow. contains: anywhere. exact: the whole answer,
    except for punctuation around it. number: the last number in the answer.
    """
    if question.form and not holds_form(question.form, text):
        return False
    if not question.accepts:
        return True
    said = folded(text)
    accepts = [folded(value) for value in question.accepts]
    if question.match == "number":
        found = [number.replace(",", "") for number in numbers(said)]
        return bool(found) and found[-1] in accepts
    if question.match == "exact":
        return _EDGES.sub("", said) in {_EDGES.sub("", value) for value in accepts}
    # No word borders between Chinese characters.
    inside = question.match == "contains" or question.language == "zh"
    return any(value in said if inside else stands(value, said) for value in accepts)


def _guesses(questions: Sequence[Question]) -> set[str]:
    """Every accepted value, and an answer in each form that is asked for."""
    values = {value for question in questions for value in question.accepts}
    forms = {question.form for question in questions if question.form}
    # With a full stop, a value also has the form of a sentence.
    return values | {EXAMPLES[form] for form in forms} | ({f"{value}." for value in values} if forms else set())


QUESTION_JUDGE: Judge[Question] = Judge(judge_answer, holds, _guesses, lambda question: question.language == "ko")


def general_questions() -> dict[str, list[Question]]:
    """The shipped questions for real models by kind, written and composed for this project."""
    file = resources.files("mlx_loopai.data.samples").joinpath(GENERAL_FILE)
    with resources.as_file(file) as path:
        questions = read_questions(path)
    written = {question.prompt for question in questions}
    questions += [_question(row, "word", "any") for row in composed_questions() if row["prompt"] not in written]
    found: dict[str, list[Question]] = {}
    for question in questions:
        found.setdefault(question.kind, []).append(question)
    return found


def read_questions(path: Path, match: Match = "word", language: Language = "any") -> list[Question]:
    """The questions of a table: a prompt (or question, ...) and its answer or list of `answers`.

    A row's own `match` and `language` override the given ones; its `images` are files in the table's folder.
    Raises: InputError with every problem of the file.
    """
    rows, broken = read_rows(path)
    problems = [(problem.line, problem.reason) for problem in broken]
    questions = []
    for row in rows:
        try:
            question = _question(row.values, match, language)
            questions.append(replace(question, pictures=_pictures(row.values, path.parent)))
        except (ValueError, InputError) as reason:
            problems.append((row.line, str(reason)))
    if problems:
        raise InputError(all_problems(f"{path}:{line}: {reason}" for line, reason in sorted(problems)))
    if not questions:
        raise InputError(tr("{path}: holds no question; give a file with at least one", path=path))
    return questions


def _question(values: Any, match: Match, language: Language) -> Question:
    if not isinstance(values, Mapping):
        raise ValueError(tr("expected an object with named fields"))
    prompt = next((values[name] for name in REQUEST_NAMES if isinstance(values.get(name), str)), "")
    accepts: Any = next((values[name] for name in _ACCEPTED_NAMES if values.get(name) not in (None, "", [])), [])
    listed = tuple(str(value) for value in (accepts if isinstance(accepts, list) else [accepts]))
    form = values.get("form", "")
    if form and form not in EXAMPLES:
        raise ValueError(tr("form {form!r}: give one of {forms}", form=form, forms=", ".join(EXAMPLES)))
    if not prompt.strip() or not (listed or form) or not all(value.strip() for value in listed):
        raise ValueError(tr("needs a prompt and an answer, a list of answers, or a form"))
    chosen_match, chosen_language = values.get("match", match), values.get("language", language)
    if chosen_match not in get_args(Match) or chosen_language not in get_args(Language):
        raise ValueError(
            tr(
                "match {chosen_match!r}, language {chosen_language!r}: give one of {matches} and one of {languages}",
                chosen_match=chosen_match,
                chosen_language=chosen_language,
                matches=", ".join(get_args(Match)),
                languages=", ".join(get_args(Language)),
            )
        )
    return Question(
        prompt=prompt,
        accepts=listed,
        match=chosen_match,
        language=chosen_language,
        kind=str(values.get("kind", "")),
        form=form,
    )


def _pictures(values: Mapping[str, Any], folder: Path) -> tuple[Picture, ...]:
    """What a row's `images` name. Raises: ValueError, InputError."""
    named = values.get("images") or []
    listed = named if isinstance(named, list) else [named]
    if not all(isinstance(name, str) and name for name in listed):
        raise ValueError(tr("images: give the path of a picture, or a list of paths"))
    return tuple(picture_in(folder, name) for name in listed)


def exchanged(questions: Sequence[Question]) -> list[Question]:
    """The same questions, each with the pictures of one with other answers, so that seeing them does not help.

    Raises: ValueError when all questions accept the same answers.
    """
    if len({question.accepts for question in questions}) < 2:
        raise ValueError(tr("all pictures have the same name, so that nothing tells who sees from who guesses"))
    found = []
    for place, question in enumerate(questions):
        others = (questions[(place + step) % len(questions)] for step in range(1, len(questions)))
        found.append(replace(question, pictures=next(o.pictures for o in others if o.accepts != question.accepts)))
    return found


def _in_language(question: Question, answer: str) -> bool:
    if question.language == "any":
        return True
    rest = folded(answer)
    for value in sorted(map(folded, question.accepts), key=len, reverse=True):
        rest = rest.replace(value, " ")
    letters = {name: n for name, n in script_counts(rest).items() if Script(name).is_letter}
    total = sum(letters.values())
    return total == 0 or letters.get(_SCRIPTS[question.language], 0) >= MIN_SHARE * total
