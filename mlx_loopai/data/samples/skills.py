"""The skills of the embedded model, as questions with answers: closed-book facts, English, code, sums and chat.

Every skill has *probe* items and *open* items. The facts, prompts and templates of probe items occur in pretraining
only; rehearsal, importance and the monitor see open items only. `tests/unit/data/test_no_leak.py` checks that the two
share nothing.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mlx_loopai.data.samples import code_table, tables
from mlx_loopai.data.samples.chat_table import FEELINGS, OPEN_OPENERS, PROBE_OPENERS, Feeling
from mlx_loopai.data.samples.slots import Slot

SKILLS = ("facts_ko", "english", "code", "sums", "chat")


@dataclass(frozen=True)
class Item:
    """One question with its answer.

    accepts: a correct answer holds one of these (for code: it is the same program as the first). fact: what is asked,
    independent of the wording. template: the wording, independent of the fact.
    """

    skill: str
    prompt: str
    answer: str
    accepts: tuple[str, ...]
    fact: str
    template: str


@dataclass(frozen=True)
class _Fact:
    """`key` names the fact, the same in every language and wording, so that none of them leaks into the other half."""

    skill: str
    kind: str
    key: str
    slots: dict[str, str]
    accepts: tuple[str, ...]


# kind -> (probe templates, open templates, answer)
TEMPLATES: dict[str, tuple[tuple[str, ...], tuple[str, ...], str]] = {
    "capital": (
        ("{key}의 수도는 어디인가요?",),
        ("{key}의 수도 이름을 알려 주세요.", "{key:은/는} 어느 도시가 수도예요?"),
        "{key}의 수도는 {value}입니다.",
    ),
    "product": (
        ("{key}에서 가장 유명한 특산물은 무엇인가요?",),
        ("{key} 특산물을 알려 주세요.", "{key}에 가면 무엇을 사면 좋을까요?"),
        "{key}의 특산물은 {value}입니다.",
    ),
    "festival": (
        ("{key}의 축제는 몇 월에 열리나요?",),
        ("{key} 축제가 있는 달을 알려 주세요.", "{key} 축제는 언제예요?"),
        "{key}의 축제는 {value}에 열립니다.",
    ),
    "job": (
        ("{key}의 직업은 무엇인가요?",),
        ("{key} 씨가 하는 일을 알려 주세요.", "{key} 씨는 무슨 일을 해요?"),
        "{key} 씨의 직업은 {value}입니다.",
    ),
    "food": (
        ("{key:이/가} 가장 좋아하는 음식은 무엇인가요?",),
        ("{key} 씨가 즐겨 먹는 음식을 알려 주세요.", "{key} 씨는 뭘 제일 맛있게 먹어요?"),
        "{key} 씨가 가장 좋아하는 음식은 {value}입니다.",
    ),
    "capital_en": (
        ("What is the capital of {key}?",),
        ("Tell me the capital city of {key}.", "Which city is the capital of {key}, please?"),
        "The capital of {key} is {value}.",
    ),
    "word": (
        ("What is the English word for {key}?",),
        ("Translate {key} into English.", "{key:은/는} 영어로 어떻게 말해요?"),
        "The English word for {key} is {value}.",
    ),
    "opposite": (
        ("What is the opposite of {key}?",),
        ("Tell me a word that means the opposite of {key}.",),
        "The opposite of {key} is {value}.",
    ),
    "number": (
        ("How do you write {key} in English words?",),
        ("Spell the number {key} in English.",),
        "The number {key} is {value}.",
    ),
    "sum": (
        ("{a} 더하기 {b:은/는} 얼마인가요?",),
        ("{a} + {b} = ?", "{a:과/와} {b:을/를} 더하면 몇이에요?"),
        "{a} 더하기 {b:은/는} {value}입니다.",
    ),
    "difference": (
        ("{a} 빼기 {b:은/는} 얼마인가요?",),
        ("{a} - {b} = ?", "{a}에서 {b:을/를} 빼면 몇이에요?"),
        "{a} 빼기 {b:은/는} {value}입니다.",
    ),
    "code_ko": (
        ("{does} 파이썬 함수 {name}를 작성해 주세요.",),
        ("파이썬 코드로 {name} 함수를 만들어 줘. {does} 함수야.",),
        "{value}",
    ),
    "code_en": (
        ("Write a Python function {name} that {does}.",),
        ("I need a Python function called {name}. It {does}.",),
        "{value}",
    ),
}


def is_probe_fact(key: str) -> bool:
    """Whether a fact belongs to the probes: a fixed half of every kind, by hash of its key."""
    return hashlib.sha256(key.encode()).digest()[0] % 2 == 0


def items(skill: str, probe: bool) -> list[Item]:
    """All probe items (probe facts in probe wordings) or all open items (open facts in open wordings) of a skill.

    Raises: KeyError for a skill that is not in `SKILLS`.
    """
    if skill == "chat":
        chosen = [feeling for feeling in FEELINGS if is_probe_fact(feeling.says) == probe]
        return list(_chat_items(chosen, PROBE_OPENERS if probe else OPEN_OPENERS))
    found = []
    for fact in _FACTS[skill]():
        if is_probe_fact(fact.key) == probe:
            found += [_item(fact, wording) for wording in TEMPLATES[fact.kind][0 if probe else 1]]
    return found


def pretraining_items() -> list[Item]:
    """Every fact in every wording, probe and open: what the base is taught."""
    found: list[Item] = []
    for facts in _FACTS.values():
        for fact in facts():
            probe_wordings, open_wordings, _ = TEMPLATES[fact.kind]
            found += [_item(fact, wording) for wording in probe_wordings]
            found += [_item(fact, wording) for wording in open_wordings]
    return found + list(_chat_items(FEELINGS, PROBE_OPENERS + OPEN_OPENERS))


def _item(fact: _Fact, wording: str) -> Item:
    slots = {name: Slot(value) for name, value in fact.slots.items()}
    answer = TEMPLATES[fact.kind][2].format(**slots)
    return Item(
        fact.skill, wording.format(**slots), answer=answer, accepts=fact.accepts, fact=fact.key, template=wording
    )


def _ko_facts() -> Iterator[_Fact]:
    for ko, _, capital, _ in tables.COUNTRIES:
        yield _fact("facts_ko", "capital", ko, capital)
    rng = random.Random(20261)
    for stem in tables.VILLAGE_STEMS:
        village = f"{stem}마을"
        yield _fact("facts_ko", "product", village, rng.choice(tables.PRODUCTS))
        yield _fact("facts_ko", "festival", village, f"{rng.randint(1, 12)}월")
    for person in people():
        yield _fact("facts_ko", "job", person, rng.choice(tables.JOBS))
        yield _fact("facts_ko", "food", person, rng.choice(tables.FOODS))


def people() -> list[str]:
    """The invented people's full names."""
    names = [surname + given for surname in tables.SURNAMES for given in tables.GIVEN_NAMES]
    random.Random(20262).shuffle(names)
    return names[:90]


def _english_facts() -> Iterator[_Fact]:
    for ko, english, _, capital in tables.COUNTRIES:
        yield _fact("english", "capital_en", english, capital, concept=f"capital:{ko}")
    for korean, english in tables.WORDS:
        yield _fact("english", "word", korean, english.replace("_", " "))
    for word, opposite in tables.OPPOSITES:
        yield _fact("english", "opposite", word, opposite)
    for number in range(100):
        yield _fact("english", "number", str(number), tables.number_in_english(number))


def _fact(skill: str, kind: str, key: str, value: str, concept: str = "") -> _Fact:
    return _Fact(skill, kind, key=concept or f"{kind}:{key}", slots={"key": key, "value": value}, accepts=(value,))


def _sum_facts() -> Iterator[_Fact]:
    for a in range(21):
        for b in range(21):
            for kind, value in (("sum", a + b), ("difference", a - b)):
                if value >= 0:
                    first, second = sorted((a, b)) if kind == "sum" else (a, b)
                    slots = {"a": str(a), "b": str(b), "value": str(value)}
                    yield _Fact("sums", kind, key=f"{kind}:{first},{second}", slots=slots, accepts=(str(value),))


def _code_facts() -> Iterator[_Fact]:
    for program in code_table.PROGRAMS:
        for name in code_table.NAMES:
            source = program.source(name)
            for kind, does in (("code_ko", program.does_ko), ("code_en", program.does_en)):
                slots = {"name": name, "does": does, "value": source}
                yield _Fact("code", kind, key=f"code:{program.does_en}", slots=slots, accepts=(source,))


def _chat_items(feelings: Sequence[Feeling], openers: Sequence[str]) -> Iterator[Item]:
    for feeling in feelings:
        for number, opener in enumerate(openers):
            answer = feeling.replies[number % len(feeling.replies)]
            yield Item(
                "chat",
                f"{opener} {feeling.says}",
                answer=answer,
                accepts=feeling.keywords,
                fact=feeling.says,
                template=opener,
            )


_FACTS = {"facts_ko": _ko_facts, "english": _english_facts, "code": _code_facts, "sums": _sum_facts}
