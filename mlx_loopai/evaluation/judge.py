"""Whether a generated answer is right: right value, shape and language, no loop, and ended by the model itself.

Likelihood is blind to the failure this project cures (a model that answers every question in JSON), so answers are
judged as a reader would. Nothing is ever executed: programs are compared as syntax trees.
"""

from __future__ import annotations

import ast
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
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
    "에서는 에서도 에서 에게 에는 에도 에 께서 께 한테 으로 로 은 는 이 가 을 를 의 와 과 "
    "이랑 랑 도 만 부터 까지 처럼 보다 하고 이나 나 요"
)
_COPULA = (
    "입니다 이에요 예요 이예요 이었습니다 였습니다 이었어요 였어요 이지요 지요 이죠 죠 이네요 네요 이랍니다 랍니다 "
    "이다 다 이야 야 이며 며 이고 고 인데 이라고 라고 이라는 라는 이라 라 이란 란 일 인"
)
_TAIL = rf"(?:{'|'.join(_PARTICLES.split())})*(?:{'|'.join(_COPULA.split())})?"
_WORD_START = regex.compile(r"(?<![\p{L}\p{M}\p{N}])(?<![\p{L}\p{N}][-.,])")
_WORD_END = regex.compile(rf"(?:{_TAIL})(?![\p{{L}}\p{{M}}\p{{N}}])(?!-[\p{{L}}\p{{N}}])")
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
        return any(_begins_word(keyword, text) for keyword in item.accepts)
    return _holds_value(item, text)


def _broken(item: Item, text: str, finished: bool) -> str | None:
    if not text:
        return "empty"
    if is_looping(text):
        return "loop"
    if json_shaped(text):
        return "json"
    if has_html(text):
        return "html"
    if item.skill == "code":
        if _tree(_program(text)) is None:
            return "syntax" if finished else "unfinished"
    elif "```" in text:
        return "fence"
    elif not _in_language(item, text):
        return "language"
    return None if finished else "unfinished"


def has_html(text: str) -> bool:
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
    said, accepts = folded(text), [folded(value) for value in item.accepts]
    if not any(stands(value, said) for value in accepts):
        return False
    rest = said
    for value in sorted(accepts, key=len, reverse=True):
        # Taken out: "Mexico City" is not also the word "city".
        rest = _without(value, rest)
    question = folded(item.prompt)
    rivals = _values_by_kind().get(_kind_of(item.template), ())
    return not any(stands(value, rest) and not stands(value, question) for value in rivals)


@lru_cache(maxsize=4096)
def folded(text: str) -> str:
    return " ".join(nfc(text).casefold().split())


def stands(value: str, text: str) -> bool:
    return next(_places(value, text), None) is not None


def _without(value: str, text: str) -> str:
    kept, start = [], 0
    for place in _places(value, text):
        kept.append(text[start:place])
        start = place + len(value)
    return "\0".join([*kept, text[start:]])


def _places(value: str, text: str) -> Iterator[int]:
    """Where `value` stands in `text` as a word of its own, Korean particles after it allowed."""
    place = text.find(value)
    while place >= 0:
        if _WORD_START.match(text, place) and _WORD_END.match(text, place + len(value)):
            yield place
        place = text.find(value, place + len(value))


@cache
def _values_by_kind() -> dict[str, tuple[str, ...]]:
    """Every value that answers a kind of question: what an answer to such a question must not hold beside its own."""
    found: dict[str, dict[str, None]] = {}
    for item in skills.pretraining_items():
        if item.skill in ("facts_ko", "english"):
            found.setdefault(_kind_of(item.template), {}).update(dict.fromkeys(map(folded, item.accepts)))
    return {kind: tuple(values) for kind, values in found.items()}


@cache
def _kind_of(template: str) -> str:
    return next((kind for kind, (probe, wide, _) in skills.TEMPLATES.items() if template in (*probe, *wide)), "")


def _begins_word(keyword: str, text: str) -> bool:
    """Keywords are stems, and anything may follow: 사과 in 사과하면, 저축 in 저축해."""
    place = text.find(keyword)
    while place >= 0 and not _WORD_START.match(text, place):
        place = text.find(keyword, place + 1)
    return place >= 0


def _holds_number(item: Item, text: str) -> bool:
    asked, said = numbers(item.prompt), numbers(text)
    if said[: len(asked)] == asked:
        said = said[len(asked) :]
    values = set(item.accepts)
    return bool(values & set(said)) and set(said) <= values | set(asked)


@lru_cache(maxsize=4096)
def numbers(text: str) -> tuple[str, ...]:
    return tuple(_NUMBER.findall(text))


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
