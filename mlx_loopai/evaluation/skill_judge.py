"""Judges answers to questions about the embedded model's skills: by value, form and language.

Nothing is ever executed: programs are compared as syntax trees.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Sequence
from functools import cache, lru_cache

import regex

from mlx_loopai.data.samples import skills
from mlx_loopai.data.samples.skills import Item
from mlx_loopai.evaluation.judge import Judge, Verdict, malformed
from mlx_loopai.evaluation.matching import begins_word, folded, numbers, stands, without
from mlx_loopai.text.hangul import nfc
from mlx_loopai.text.measures import purity
from mlx_loopai.text.scripts import Script, script_counts

MIN_PURITY = 0.9
# The longest reference has 60 characters; far longer "programs" could exhaust the parser's stack.
MAX_PROGRAM_CHARS = 1000

_FENCE = regex.compile(r"\s*```[ \t]*(?:python|py)?[ \t]*\n(.*?)\n?```\s*", regex.S | regex.I)
_HANGUL_RUN = regex.compile(r"\p{Hangul}+")
_LATIN_RUN = regex.compile(r"\p{Latin}[\p{Latin}\p{M}'’-]*")


def judge_skill(item: Item, text: str, finished: bool) -> Verdict:
    """The verdict on `text` as an answer to `item`; `finished`: the model ended the turn itself.

    Besides the values of `judge.malformed`, `broken` may be "fence", "syntax" (code that does not parse), "language" or
    "unfinished".
    """
    answer = nfc(text).strip()
    broken = _broken(item, answer, finished)
    return Verdict(broken is None and holds_answer(item, answer), broken)


def holds_answer(item: Item, text: str) -> bool:
    """Whether the right value is in `text`, whatever its form.

    facts_ko, english: an accepted value as a whole word, and no other value of the same kind (another capital, another
    month) unless the question itself names it. A Korean particle or copula may follow the value.
    sums: of the numbers after the question's own, one is the value and the others are the question's.
    code: the same syntax tree as the reference. chat: a word begins with one of the keywords.
    """
    if item.skill == "code":
        return _same_program(_program(text), item.accepts[0])
    if item.skill == "sums":
        return _holds_number(item, text)
    if item.skill == "chat":
        return any(begins_word(keyword, text) for keyword in item.accepts)
    return _holds_value(item, text)


def _guesses(items: Sequence[Item]) -> set[str]:
    """Every accepted value alone and every whole reference answer."""
    return {guess for item in items for guess in (*item.accepts, item.answer)}


SKILL_JUDGE: Judge[Item] = Judge(judge_skill, holds_answer, _guesses, lambda item: item.skill == "chat")


def _broken(item: Item, text: str, finished: bool) -> str | None:
    broken = malformed(text)
    if broken is not None:
        return broken
    if item.skill == "code":
        if _tree(_program(text)) is None:
            return "syntax" if finished else "unfinished"
    elif "```" in text:
        return "fence"
    elif not _in_language(item, text):
        return "language"
    return None if finished else "unfinished"


def _in_language(item: Item, text: str) -> bool:
    """Whether an English answer is Latin, or another one Korean, except for words quoted from the question."""
    if item.skill == "english":
        quoted = _HANGUL_RUN.findall(nfc(item.prompt))
        rest = _HANGUL_RUN.sub(lambda run: "" if any(run.group() in word for word in quoted) else run.group(), text)
        return set(_letters(rest)) <= {Script.LATIN}
    quoted = [word.casefold() for source in (item.prompt, *item.accepts) for word in _LATIN_RUN.findall(nfc(source))]
    rest = _LATIN_RUN.sub(lambda word: "" if word.group().casefold() in quoted else word.group(), text)
    return not _letters(rest) or purity(rest) >= MIN_PURITY


def _letters(text: str) -> list[str]:
    return [name for name in script_counts(text) if Script(name).is_letter]


def _holds_value(item: Item, text: str) -> bool:
    said, accepts = folded(text), [folded(value) for value in item.accepts]
    if not any(stands(value, said) for value in accepts):
        return False
    rest = said
    for value in sorted(accepts, key=len, reverse=True):
        # Taken out: "Mexico City" is not also the word "city".
        rest = without(value, rest)
    question = folded(item.prompt)
    rivals = _values_by_kind().get(_kind_of(item.template), ())
    return not any(stands(value, rest) and not stands(value, question) for value in rivals)


@cache
def _values_by_kind() -> dict[str, tuple[str, ...]]:
    """All values that answer a kind of question; an answer to such a question must hold its own value only."""
    found: dict[str, dict[str, None]] = {}
    for item in skills.pretraining_items():
        if item.skill in ("facts_ko", "english"):
            found.setdefault(_kind_of(item.template), {}).update(dict.fromkeys(map(folded, item.accepts)))
    return {kind: tuple(values) for kind, values in found.items()}


@cache
def _kind_of(template: str) -> str:
    return next((kind for kind, (probe, wide, _) in skills.TEMPLATES.items() if template in (*probe, *wide)), "")


def _holds_number(item: Item, text: str) -> bool:
    asked, said = numbers(item.prompt), numbers(text)
    if said[: len(asked)] == asked:
        said = said[len(asked) :]
    values = set(item.accepts)
    return bool(values & set(said)) and set(said) <= values | set(asked)


def _program(text: str) -> str:
    """The code of an answer, out of the fence around it if it has one."""
    fenced = _FENCE.fullmatch(text)
    return fenced.group(1) if fenced else text


def _same_program(text: str, reference: str) -> bool:
    tree = _tree(text)
    return tree is not None and tree == _tree(reference)


@lru_cache(maxsize=1024)
def _tree(program: str) -> str | None:
    """The syntax tree of a program as text, the same for any spacing; None when it does not parse."""
    if len(program) > MAX_PROGRAM_CHARS:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as for "\d", which is the model's business
            return ast.dump(ast.parse(program))
    except (SyntaxError, RecursionError, ValueError, MemoryError):
        return None
