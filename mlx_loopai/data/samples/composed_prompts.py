"""Composes rehearsal prompts for skills that a base loses first: sums, words, short facts, what code prints, forms, writing, talk."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from typing import Any

import yaml

from mlx_loopai.data.samples.slots import Slot

TABLES = "prompt_tables.yaml"
_SEED = 20262
_SUMS_OF_A_WORDING = 6
_PROGRAMS_OF_A_KIND = 6

_SUMS = (
    "{a} + {b} = ?",
    "{a} - {b} = ?",
    "{c} x {b} = ?",
    "{a}에 {b}만큼 보태면 몇인가요?",
    "{a}에서 {b}만큼 덜어 내면 몇인가요?",
    "{c}의 {b}배는 몇인가요?",
    "Work out {a} plus {b}.",
    "Work out {a} minus {b}.",
    "Work out {c} times {b}.",
    "{a}和{b}的和是几？",
    "{a}和{b}的差是几？",
    "{c}和{b}的积是几？",
    "버스에 {a}명이 타고 있다가 {b}명이 내렸습니다. 남은 사람은 몇 명인가요?",
    "A farmer has {a} hens and gets {b} more. How many hens is that?",
    "停车场有{a}辆车，又来了{b}辆，现在有几辆？",
)
_PROGRAMS = (
    "x = {a}\ny = {b}\nprint(x + y)",
    "x = {a}\nx -= {b}\nprint(x)",
    "print(min({a}, {b}))",
    "print(abs({b} - {a}))",
    "print(len([{a}, {b}, {a}]))",
    "print({a} > {b})",
    "for i in range({b}):\n    pass\nprint(i)",
    'print("{w}".capitalize())',
    'print("{w}" + "{w}")',
    'print("{w}".replace("a", "o"))',
)
_PROGRAM_WORDINGS = ("Say what this program prints:\n{program}", "이 파이썬 코드의 출력은 무엇인가요?\n{program}")
_NAMES = ("banana", "garden", "market", "planet", "walnut", "candle")
_TRANSLATIONS = (
    "How do you say '{ko}' in English?",
    "'{en}'을(를) 우리말로 하면?",
    "“{zh}”用韩语怎么说？",
    "'{zh}'는 우리말로 무슨 뜻인가요?",
    "Give me the Chinese for '{en}'.",
    "“{zh}”的英文单词是什么？",
)
_FORMS = (
    "{ko} 하나만 낱말로 대답하세요.",
    "{ko} 세 가지를 쉼표로 나누어 쓰세요. 설명은 필요 없어요.",
    "{ko} 세 개를 1, 2, 3으로 번호를 매겨 적으세요.",
    '{ko} 하나를 골라 {{"name": ...}} 꼴의 JSON으로 답하세요.',
    "{ko} 하나를 골라 한 문장으로 소개해 주세요.",
    "Answer with a single word: a {en}.",
    "Three kinds of {en}, comma-separated, no explanation.",
    "A numbered list with three kinds of {en}, please.",
    'Pick a {en} and answer as JSON like {{"name": ...}}.',
    "Pick a {en} and describe it in one sentence.",
    "Pick a {en} and describe it in one Korean sentence.",
)
# Four kinds, so that Korean writing is rehearsed four times as often as other skills: rows of stories are most like it.
# They have many wordings. A real 0.5B that had rehearsed ten stayed near its base in these (0.07 nats of KL a token) and
# not in others: 0.13 on the same topics, 0.22 on others' (docs/experiments.md).
_WRITING = {
    "ko_sentence": (
        "{topic:을/를} 주제로 문장 하나를 적어 보세요.",
        "{topic:을/를} 바라보는 사람의 마음을 한 문장으로 나타내 보세요.",
        "{topic:으로/로} 시작하는 수필의 첫 문장을 적어 보세요.",
        "{topic:이/가} 나오는 동화의 마지막 문장을 지어 보세요.",
        "한 줄로 {topic:을/를} 그려 보세요.",
    ),
    "ko_passage": (
        "{topic:을/를} 소재로 짧은 글을 지어 보세요.",
        "{topic}에 얽힌 기억을 두세 문장으로 들려주세요.",
        "블로그에 올릴 {topic} 이야기를 세 문장쯤 적어 보세요.",
        "{topic:이/가} 보이는 풍경을 자세히 적어 보세요.",
        "친구에게 보내는 편지에 {topic} 이야기를 짧게 넣어 보세요.",
    ),
    "ko_sentence_request": (
        "{topic:을/를} 한 문장으로 그려 주세요.",
        "{topic:이/가} 떠오르는 문장을 한 줄 지어 주세요.",
        "{topic:을/를} 노래한 시의 첫 줄을 써 주세요.",
        "{topic:을/를} 알리는 짧은 문구를 만들어 주세요.",
    ),
    "ko_passage_request": (
        "{topic:을/를} 다룬 짧은 글을 써 주세요.",
        "{topic:을/를} 소재로 세 문장을 지어 주세요.",
        "{topic:을/를} 좋아하는 까닭을 두세 문장으로 써 주세요.",
        "{topic:이/가} 있는 풍경을 글로 그려 주세요.",
    ),
}
# Somebody tells something and asks for an answer. Bare remarks are not enough: a real 0.5B that had rehearsed those alone
# lost 19 of 51 answers to remarks with a request (docs/experiments.md).
_TALK = {
    "ko_talk": (
        "{situation}. 어떻게 생각해요?",
        "{situation}. 이런 적 있어요?",
        "{situation}. 제 기분을 알 것 같나요?",
        "있잖아요, {situation}.",
        "{situation}. 뭘 먼저 하는 게 나을까요?",
    ),
    "ko_talk_request": (
        "{situation}. 아무 말이나 들려주세요.",
        "{situation}. 가족이라면 했을 말을 해 주세요.",
        "{situation}. 힘이 나는 말 한 줄만 부탁드려요.",
        "{situation}. 제 이야기에 맞장구를 쳐 주세요.",
        "{situation}. 조언이 있으면 말씀해 주세요.",
        "친구가 이렇게 말했어요: “{situation}.” 답장을 대신 써 주세요.",
    ),
}
# The kinds of prompts that the monitor reads and that are never rehearsed begin so; the ability follows.
WATCHED = "watched_"


def composed_prompts() -> dict[str, list[str]]:
    """Prompts by kind: sums, prints, words, short_facts, forms, Korean writing and talk, and what is only watched.

    The last are one kind an ability, in wordings of their own: what is rehearsed in one wording says little of another.
    """
    tables = _tables()
    return (
        {
            "sums": list(_sums()),
            "prints": list(_programs()),
            "words": list(_words(tables["words"])),
            "short_facts": list(tables["short_facts"]),
            "forms": [wording.format(ko=ko, en=en) for ko, en in tables["things"] for wording in _FORMS],
        }
        | _filled(_WRITING, "topic", tables["writing_topics"])
        | _filled(_TALK, "situation", tables["talk_situations"])
        | {f"{WATCHED}{ability}": list(prompts) for ability, prompts in tables["watched"].items()}
    )


def _tables() -> dict[str, Any]:
    text = resources.files("mlx_loopai.data.samples").joinpath(TABLES).read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def _filled(kinds: Mapping[str, Sequence[str]], slot: str, words: Sequence[str]) -> dict[str, list[str]]:
    """Every wording of each kind with each of `words` in its slot."""
    return {
        kind: [wording.format(**{slot: Slot(word)}) for word in words for wording in wordings]
        for kind, wordings in kinds.items()
    }


def _sums() -> Iterator[str]:
    drawn = random.Random(_SEED)
    for wording in _SUMS:
        found: dict[str, None] = {}
        while len(found) < _SUMS_OF_A_WORDING:
            found[wording.format(a=drawn.randint(12, 60), b=drawn.randint(2, 9), c=drawn.randint(2, 9))] = None
        yield from found


def _programs() -> Iterator[str]:
    drawn = random.Random(_SEED + 1)
    for number, program in enumerate(_PROGRAMS):
        found: dict[str, None] = {}
        while len(found) < _PROGRAMS_OF_A_KIND:
            code = program.format(a=drawn.randint(10, 40), b=drawn.randint(2, 9), w=drawn.choice(_NAMES))
            found[_PROGRAM_WORDINGS[number % 2].format(program=code)] = None
        yield from found


def _words(table: list[tuple[str, str, str]]) -> Iterator[str]:
    """A question for every word in three of the six directions of translation."""
    for number, (ko, en, zh) in enumerate(table):
        for wording in _TRANSLATIONS[number % 2 :: 2]:
            yield wording.format(ko=ko, en=en, zh=zh)
