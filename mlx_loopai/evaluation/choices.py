"""Multiple choice by log-likelihood: which option the model finds the likeliest continuation of the question."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlx_loopai.data.formats import read_rows
from mlx_loopai.data.tokens import TokenRow, text_start
from mlx_loopai.errors import InputError, all_problems
from mlx_loopai.evaluation.perplexity import nll
from mlx_loopai.language import tr
from mlx_loopai.models.load import LoadedModel
from mlx_loopai.progress import Advance, ignore

_COPA_LINKS = {"원인": "왜냐하면", "결과": "그래서"}


@dataclass(frozen=True)
class Choice:
    """A multiple-choice question. answer: index of the correct option in `options`."""

    prompt: str
    options: tuple[str, ...]
    answer: int


def chance(items: Sequence[Choice]) -> float:
    """The expected accuracy of a blind guess."""
    return float(np.mean([1 / len(item.options) for item in items]))


def choose(loaded: LoadedModel, items: Sequence[Choice], on_progress: Advance = ignore) -> list[int]:
    """The index of the option with the lowest NLL per UTF-8 byte, for every item.

    The NLL is per byte, not per token, so that long options are not at a disadvantage and tokenizers can be compared.
    The text is a plain continuation, without the chat template.
    """
    rows = choice_rows(loaded.tokenizer, items)

    def show(done: int, note: str = "") -> None:
        on_progress(done * len(items) // len(rows), note)

    losses = iter(nll(loaded.model, rows, on_progress=show).nll)
    scored = [[next(losses) / len(option.encode()) for option in item.options] for item in items]
    return [int(np.argmin(scores)) for scores in scored]


def read_choices(path: Path) -> list[Choice]:
    """Items of a KoBEST-shaped TSV (COPA, HellaSwag, BoolQ, SentiNeg) or of rows with question, choices and answer.

    An answer is the correct choice's text, its letter, or its index from 0. Raises: InputError with every problem.
    """
    items: list[Choice] = []
    problems: list[str] = []
    for line, values in _rows(path):
        try:
            items.append(_item({str(name).strip().lower(): value for name, value in values.items()}))
        except (ValueError, KeyError, IndexError, AttributeError) as error:
            problems.append(f"{path}:{line}: {error if isinstance(error, ValueError) else 'a field is missing'}")
    if problems:
        raise InputError(all_problems(problems))
    if not items:
        raise InputError(tr("{path}: holds no item; give a file with at least one", path=path))
    return items


def _rows(path: Path) -> list[tuple[int, Mapping[str, Any]]]:
    if path.suffix.lower() != ".tsv":
        rows, problems = read_rows(path)
        if problems:
            raise InputError(all_problems(f"{path}:{problem.line}: {problem.reason}" for problem in problems))
        return [(row.line, row.values if isinstance(row.values, Mapping) else {}) for row in rows]
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            tr("{path}: cannot be read: {error}; check the path, and that it is UTF-8", path=path, error=error)
        ) from None
    return list(enumerate(csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE), start=2))


def _item(fields: Mapping[str, Any]) -> Choice:
    if "choices" in fields:
        return _listed(fields)
    if {"sentence", "question", "1", "2"} <= set(fields):  # KoBEST COPA
        prompt = f"{fields['sentence'].strip()} {_COPA_LINKS[fields['question'].strip()]}"
        return _checked(prompt, [fields["1"], fields["2"]], int(fields["answer"]) - 1)
    if {"context", "choice1", "choice2", "choice3", "choice4"} <= set(fields):  # KoBEST HellaSwag, counted from 0
        return _checked(fields["context"], [fields[f"choice{place}"] for place in range(1, 5)], int(fields["label"]))
    if {"text", "question", "answer"} <= set(fields):  # KoBEST BoolQ
        true = str(fields["answer"]).strip().lower() in ("true", "1")
        return _checked(f"{fields['text']}\n질문: {fields['question']}\n답:", ["아니오", "예"], int(true))
    if {"text", "label"} <= set(fields):  # KoBEST SentiNeg
        return _checked(f"문장: {fields['text']}\n느낌:", ["부정", "긍정"], int(fields["label"]))
    raise ValueError(
        tr("unknown shape (fields: {fields}); expected question, choices and answer", fields=", ".join(fields))
    )


def _listed(fields: Mapping[str, Any]) -> Choice:
    options, answer = [str(option) for option in fields["choices"]], fields["answer"]
    prompt = str(fields.get("question") or fields["prompt"])
    if isinstance(answer, str) and answer in options:
        return _checked(prompt, options, options.index(answer))
    if isinstance(answer, str) and len(answer) == 1 and answer.isascii() and answer.isalpha():
        return _checked(prompt, options, ord(answer.upper()) - ord("A"))
    return _checked(prompt, options, int(answer))


def _checked(prompt: str, options: Sequence[str], answer: int) -> Choice:
    texts = tuple(option.strip() for option in options)
    if not prompt.strip() or len(texts) < 2 or not all(texts):
        raise ValueError(tr("needs a question and two or more choices with text"))
    if not 0 <= answer < len(texts):
        raise ValueError(
            tr(
                "the answer is choice {answer} of {n_texts}, counted from 0; give one that exists",
                answer=answer,
                n_texts=len(texts),
            )
        )
    return Choice(prompt.strip(), texts, answer)


def choice_rows(tokenizer: Any, items: Sequence[Choice]) -> list[TokenRow]:
    """One row an option, item after item, in which the option is supervised."""
    return [_row(tokenizer, item.prompt, option) for item in items for option in item.options]


def _row(tokenizer: Any, prompt: str, option: str) -> TokenRow:
    asked = [*text_start(tokenizer), *tokenizer.encode(prompt, add_special_tokens=False)]
    said = tokenizer.encode(f" {option}", add_special_tokens=False)
    supervised = np.array([False] * len(asked) + [True] * len(said))
    ids = np.array([*asked, *said], np.int32)
    return TokenRow(ids=ids, supervised=supervised, origin="choice", category="choice")
