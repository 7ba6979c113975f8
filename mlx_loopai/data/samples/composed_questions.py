"""Composes most questions of the suite `general` from small tables: facts, sums, words, programs, forms, chat, writing.

Every question is written once, in one wording; a seed that never changes picks the numbers.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import cache
from importlib import resources
from typing import Any

import yaml

from mlx_loopai.data.samples.slots import Slot

TABLES = "question_tables.yaml"
_SEED = 20261
_SUMS_OF_A_WORDING = 10
_PROGRAMS_OF_A_KIND = 10
_LANGUAGES = ("ko", "en", "zh")

Row = dict[str, Any]


def composed_questions() -> list[Row]:
    """Rows as a question file has them: kind, prompt, answers, match, language, and `form` where one is asked for."""
    return [*_facts(), *_sums(), *_translations(), *_programs(), *_chat(), *_forms(), *_writing()]


@cache
def _tables() -> dict[str, Any]:
    text = resources.files("mlx_loopai.data.samples").joinpath(TABLES).read_text(encoding="utf-8")
    tables: dict[str, Any] = yaml.safe_load(text)
    return tables


def _row(kind: str, prompt: str, answers: str, match: str, language: str) -> Row:
    return {"kind": kind, "prompt": prompt, "answers": answers.split("|"), "match": match, "language": language}


_RELATIONS = {
    "capitals": ("{key}의 수도는 어느 도시인가요?", "Which city is the capital of {key}?", "{key}的首都是哪座城市？"),
    "continents": (
        "{key:은/는} 어느 대륙에 있는 나라인가요?",
        "On which continent is {key}?",
        "{key}位于哪个大洲？",
    ),
    "opposites": ("'{key}'의 반대말은 무엇인가요?", 'What is the opposite of "{key}"?', "“{key}”的反义词是什么？"),
}
_ENDINGS = {"ko": "?", "en": "?", "zh": "？"}


def _facts() -> Iterator[Row]:
    for relation, wordings in _RELATIONS.items():
        for row in _tables()[relation]:
            for place, language in enumerate(_LANGUAGES):
                prompt = wordings[place].format(key=Slot(str(row[place])))
                yield _row(f"facts_{language}", prompt, str(row[3 + place]), "word", language)
    for language in _LANGUAGES:
        for question, answers in _tables()[f"facts_{language}"]:
            prompt = question + _ENDINGS[language]
            yield _row(f"facts_{language}", prompt, str(answers), "word", language)


_SUM_WORDINGS = (
    ("add", "{a}에 {b:을/를} 더한 값은 얼마인가요?"),
    ("add", "What do you get when you add {a} and {b}?"),
    ("add", "{a}加{b}等于多少？"),
    ("subtract", "{a}에서 {b:을/를} 빼면 얼마가 남나요?"),
    ("subtract", "What is left when you take {b} away from {a}?"),
    ("subtract", "{a}减{b}等于多少？"),
    ("multiply", "{a:과/와} {b:을/를} 곱한 값은 얼마인가요?"),
    ("multiply", "What is the product of {a} and {b}?"),
    ("multiply", "{a}乘{b}等于多少？"),
    ("apples", "사과가 {a}개 있었는데 {b}개를 더 샀습니다. 사과는 모두 몇 개인가요?"),
    ("apples", "Mina had {a} pencils and bought {b} more. How many pencils does she have now?"),
    ("spent", "A shop had {a} cups and sold {b} of them. How many cups are left?"),
)


def _sums() -> Iterator[Row]:
    drawn = random.Random(_SEED)
    for operation, wording in _SUM_WORDINGS:
        seen: set[tuple[int, int]] = set()
        while len(seen) < _SUMS_OF_A_WORDING:
            a, b = drawn.randint(11, 49), drawn.randint(2, 10)
            if operation == "multiply":
                a = drawn.randint(2, 9)
            if (a, b) in seen:
                continue
            seen.add((a, b))
            value = {"subtract": a - b, "spent": a - b, "multiply": a * b}.get(operation, a + b)
            yield _row("sums", wording.format(a=Slot(str(a)), b=Slot(str(b))), str(value), "number", "any")


def _translations() -> Iterator[Row]:
    """A question for every word in two of the six directions, so that all directions are asked equally often."""
    wordings = {
        ("ko", "en"): "'{word}'라는 한국어 단어는 영어로 무엇인가요?",
        ("en", "ko"): "영어 단어 '{word}'의 뜻을 한국어로 말해 주세요.",
        ("zh", "ko"): "중국어 '{word}'의 뜻을 한국어로 말해 주세요.",
        ("en", "zh"): '"{word}"用中文怎么说？',
        ("zh", "en"): 'What does the Chinese word "{word}" mean in English?',
        ("ko", "zh"): "韩语的“{word}”用中文怎么说？",
    }
    for number, row in enumerate(_tables()["words"]):
        words = dict(zip(_LANGUAGES, map(str, row), strict=True))
        directions = list(wordings)[2 * (number % 3) : 2 * (number % 3) + 2]
        for source, target in directions:
            prompt = wordings[source, target].format(word=Slot(words[source].split("|")[0]))
            match = "word" if target == "en" else "contains"
            yield _row("translation", prompt, words[target], match, "any")


_NAMES = ("apple", "river", "stone", "tiger", "cloud", "paper", "green", "music", "house", "bread", "light", "water")


def _programs() -> Iterator[Row]:
    """Programs of one line with what they print, computed here from the same numbers."""
    drawn = random.Random(_SEED + 1)
    kinds: tuple[Callable[[], tuple[str, str]], ...] = (
        lambda: _with_numbers(drawn, "print({a} + {b})", lambda a, b: a + b),
        lambda: _with_numbers(drawn, "print({a} - {b})", lambda a, b: a - b),
        lambda: _with_numbers(drawn, "print({a} * {b})", lambda a, b: a * b),
        lambda: _with_numbers(drawn, "print({a} % {b})", lambda a, b: a % b),
        lambda: _with_numbers(drawn, "print({a} // {b})", lambda a, b: a // b),
        lambda: _with_numbers(drawn, "print(max([{b}, {a}, 1]))", max),
        lambda: _with_numbers(drawn, "print(sum([{a}, {b}, 1]))", lambda a, b: a + b + 1),
        lambda: _with_numbers(drawn, "xs = [{a}, {b}]; print(xs[-1])", lambda _a, b: b),
        lambda: _with_word(drawn, 'print(len("{w}"))', lambda w: str(len(w))),
        lambda: _with_word(drawn, 'print("{w}".upper())', str.upper),
        lambda: _with_word(drawn, 'print("{w}"[0])', lambda w: w[0]),
        lambda: _with_word(drawn, 'print("{w}"[::-1])', lambda w: w[::-1]),
    )
    for kind in kinds:
        found: dict[str, str] = {}
        while len(found) < _PROGRAMS_OF_A_KIND:
            program, printed = kind()
            found[program] = printed
        for program, printed in found.items():
            match = "number" if printed.isdigit() else "word"
            yield _row("code", f"What does this Python code print?\n{program}", printed, match, "any")


def _with_numbers(drawn: random.Random, program: str, value: Callable[[int, int], int]) -> tuple[str, str]:
    a, b = drawn.randint(10, 29), drawn.randint(2, 9)
    return program.format(a=a, b=b), str(value(a, b))


def _with_word(drawn: random.Random, program: str, value: Callable[[str], str]) -> tuple[str, str]:
    word = drawn.choice(_NAMES)
    return program.format(w=word), value(word)


def _chat() -> Iterator[Row]:
    for situation, keywords in _tables()["chat_situations"]:
        for request in _tables()["chat_requests"]:
            yield _row("chat", f"{situation}. {request}", keywords, "contains", "ko")


# (form, language of the answer, wording); `thing` is a word of the language that the wording is written in.
_FORMS = {
    "en": (
        ("one_word", "any", "Name one {thing}. Answer with one word only."),
        ("three_items", "any", "List three examples of a {thing}, separated by commas, and nothing else."),
        ("three_lines", "any", "Write a numbered list with three examples of a {thing}, one per line."),
        ("json", "any", 'Reply with a JSON object that has the key "name" and holds one example of a {thing}.'),
        ("sentence", "en", "Say something about a {thing} in one plain sentence."),
        ("sentence", "ko", "In Korean only, say something about a {thing} in one sentence."),
    ),
    "ko": (
        ("one_word", "any", "{thing} 이름을 하나만 골라 한 단어로만 답해 주세요."),
        ("three_items", "any", "{thing}의 예를 세 가지만 쉼표로 이어서 적고 다른 말은 하지 마세요."),
        ("three_lines", "any", "{thing}의 예 세 가지를 번호를 붙여 한 줄에 하나씩 적어 주세요."),
        ("json", "any", '{thing}의 예를 하나 골라 키가 "name"인 JSON 객체로만 답해 주세요.'),
        ("sentence", "ko", "{thing}에 대해 평범한 문장 하나로 말해 주세요."),
        ("sentence", "en", "영어로만, {thing}에 대해 한 문장으로 말해 주세요."),
        ("sentence", "zh", "중국어로만, {thing}에 대해 한 문장으로 말해 주세요."),
    ),
}


def _forms() -> Iterator[Row]:
    for written_in, wordings in _FORMS.items():
        for form, language, wording in wordings:
            for thing in _tables()[f"form_words_{written_in}"]:
                prompt = wording.format(thing=Slot(thing))
                yield {"kind": "forms", "prompt": prompt, "form": form, "language": language}


def _writing() -> Iterator[Row]:
    """Questions for a short text. A program can only check that it ends and is about its topic."""
    for topic, words in _tables()["writing_topics"].items():
        for request in _tables()["writing_requests"]:
            row = _row("writing_ko", request.format(topic=Slot(topic)), words, "contains", "ko")
            yield row | {"form": "prose"}
