"""Whether a generated answer is right: the right value, in the right shape and language, without a loop, ended by itself.

Likelihood is blind to the failure this project cures (a model that answers every question in JSON), so answers are
judged as a reader would. Nothing is ever executed: programs are compared as syntax trees.
"""

from __future__ import annotations

import ast
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache

import regex

from mlx_loopai.data.samples import skills
from mlx_loopai.data.samples.skills import Item
from mlx_loopai.text.hangul import nfc
from mlx_loopai.text.markup import Html
from mlx_loopai.text.measures import is_looping, json_shaped, purity
from mlx_loopai.text.scripts import Script, script_counts

MIN_PURITY = 0.9
# The longest reference has 60 characters; far longer "programs" could exhaust the parser's stack.
MAX_PROGRAM_CHARS = 1000

_PARTICLES = (
    "에서는 에서도 에서 에게 에는 에도 에 께서 께 한테 으로 로 은 는 이랑 랑 이 가 을 를 의 와 과 도 만 부터 까지 처럼 보다 하고 이나 나 요"
)
_COPULA = (
    "입니다 이에요 예요 이예요 이었습니다 였습니다 이었어요 였어요 이지요 지요 이죠 죠 이네요 네요 이랍니다 랍니다 "
    "이다 다 이야 야 이며 며 이고 고 인데 이라고 라고 이라는 라는 이라 라 이란 란 일 인"
)
_TAIL = rf"(?:{'|'.join(_PARTICLES.split())})*(?:{'|'.join(_COPULA.split())})?"
_WORD_START = r"(?<![\p{L}\p{M}\p{N}])(?<![\p{L}\p{N}][-.,])"
_WORD_END = r"(?![\p{L}\p{M}\p{N}])(?!-[\p{L}\p{N}])"
_NUMBER = regex.compile(r"(?:(?<![0-9])[-−])?[0-9]+(?:[.,][0-9]+)*")
_FENCE = regex.compile(r"\s*```[ \t]*(?:python|py)?[ \t]*\n(.*?)\n?```\s*", regex.S | regex.I)
_HANGUL_RUN = regex.compile(r"\p{Hangul}+")
_LATIN_RUN = regex.compile(r"\p{Latin}[\p{Latin}\p{M}'’-]*")


@dataclass(frozen=True)
class Verdict:
    """`broken` says what is wrong with the form of an answer, None when nothing is.

    One of empty, loop, json, html, fence, syntax (code that does not parse), language, unfinished.
    A well-formed wrong answer is neither right nor broken; a broken answer is never right, whatever it says.
    """

    right: bool
    broken: str | None


def judge(item: Item, text: str, finished: bool) -> Verdict:
    """The verdict on `text` as an answer to `item`; `finished`: the model ended the turn itself."""
    answer = nfc(text).strip()
    broken = _broken(item, answer, finished)
    return Verdict(broken is None and holds_answer(item, answer), broken)


def holds_answer(item: Item, text: str) -> bool:
    """Whether the right value stands in `text`, whatever its form.

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
        return any(_keyword(keyword).search(text) for keyword in item.accepts)
    return _holds_value(item, text)


def _broken(item: Item, text: str, finished: bool) -> str | None:
    if not text:
        return "empty"
    if is_looping(text):
        return "loop"
    if json_shaped(text):
        return "json"
    if _has_html(text):
        return "html"
    if item.skill == "code":
        if _tree(_program(text)) is None:
            return "syntax" if finished else "unfinished"
    elif "```" in text:
        return "fence"
    elif not _in_language(item, text):
        return "language"
    return None if finished else "unfinished"


def _has_html(text: str) -> bool:
    removed: Counter[str] = Counter()
    stage = Html(removed)
    stage.feed(text)
    stage.close()
    return removed["html"] > 0


def _in_language(item: Item, text: str) -> bool:
    """English answers are Latin but for Hangul quoted from the question; others are Korean but for such Latin."""
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
    accepted = _value_pattern(item.accepts)
    if not accepted.search(text):
        return False
    # Taken out first: "Mexico City" is not also the word "city".
    rest = accepted.sub(" ", text)
    named = {value.casefold() for value in (*item.accepts, *_values_in(item.template, nfc(item.prompt)))}
    return all(value.casefold() in named for value in _values_in(item.template, rest))


def _values_in(template: str, text: str) -> list[str]:
    pattern = _rivals(template)
    return [] if pattern is None else [found.group(1) for found in pattern.finditer(text)]


@cache
def _rivals(template: str) -> regex.Pattern[str] | None:
    """Finds every value that answers questions of the template's kind; None for a wording that has no kind."""
    values = _values_by_kind().get(_kind_of(template), ())
    return _value_pattern(tuple(values)) if values else None


@cache
def _values_by_kind() -> dict[str, tuple[str, ...]]:
    found: dict[str, dict[str, None]] = {}
    for item in skills.pretraining_items():
        if item.skill in ("facts_ko", "english"):
            found.setdefault(_kind_of(item.template), {}).update(dict.fromkeys(item.accepts))
    return {kind: tuple(values) for kind, values in found.items()}


def _kind_of(template: str) -> str:
    return next((kind for kind, (probe, wide, _) in skills.TEMPLATES.items() if template in (*probe, *wide)), "")


@lru_cache(maxsize=4096)
def _value_pattern(values: tuple[str, ...]) -> regex.Pattern[str]:
    longest_first = sorted(values, key=len, reverse=True)
    choice = "|".join(r"\s+".join(map(regex.escape, value.split())) for value in longest_first)
    return regex.compile(rf"{_WORD_START}({choice}){_TAIL}{_WORD_END}", regex.I)


@lru_cache(maxsize=256)
def _keyword(keyword: str) -> regex.Pattern[str]:
    # Keywords are stems: 사과 in 사과하면, 저축 in 저축해.
    return regex.compile(_WORD_START + regex.escape(keyword))


def _holds_number(item: Item, text: str) -> bool:
    asked, said = _numbers(item.prompt), _numbers(text)
    if said[: len(asked)] == asked:
        said = said[len(asked) :]
    values = set(item.accepts)
    return bool(values & set(said)) and set(said) <= values | set(asked)


def _numbers(text: str) -> list[str]:
    return _NUMBER.findall(text)


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


def constant_guess(items: Iterable[Item]) -> float:
    """The accuracy of the best answer that is the same for every item: the chance level, in [0, 1].

    Tried are every accepted value alone and every whole reference answer.
    """
    asked = list(items)
    guesses = {guess for item in asked for guess in (*item.accepts, item.answer)}
    return max(sum(holds_answer(item, guess) for item in asked) for guess in guesses) / len(asked)
