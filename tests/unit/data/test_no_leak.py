"""Probe facts, prompts and wordings occur in pretraining only: rehearsal, importance and the monitor never see them.

Compared after normalisation: NFC, casefold, white space and punctuation removed.
"""

from __future__ import annotations

import json
import unicodedata
from functools import cache

import pytest
import regex

from mlx_loopai.data.samples import code_table, composed_questions, corpus, skills, texts
from mlx_loopai.data.samples import composed_prompts as composed_prompts_module
from mlx_loopai.data.samples.composed_prompts import composed_prompts
from mlx_loopai.data.samples.skills import SKILLS, Item
from mlx_loopai.evaluation.questions import general_questions

PUNCTUATION_OR_SPACE = regex.compile(r"[\p{P}\p{S}\p{Z}\p{C}]+")
SLOT = regex.compile(r"\{(\w+)(?::[^}]*)?\}")
ALL = 1_000_000


@cache
def normal(text: str) -> str:
    return PUNCTUATION_OR_SPACE.sub("", unicodedata.normalize("NFC", text).casefold())


@cache
def probe_items() -> tuple[Item, ...]:
    return tuple(item for skill in SKILLS for item in skills.items(skill, probe=True))


@cache
def open_items() -> tuple[Item, ...]:
    return tuple(item for skill in SKILLS for item in skills.items(skill, probe=False))


@cache
def sources() -> dict[str, tuple[str, ...]]:
    """Everything but pretraining that a model may be trained or measured on: source -> its user turns."""
    found = {"open items": tuple(item.prompt for item in open_items()), "prompts.jsonl": tuple(texts.prompts())}
    found["composed prompts"] = tuple(prompt for prompts in composed_prompts().values() for prompt in prompts)
    records = {
        "general": corpus.general_records(ALL, seed=0),
        "hurting": corpus.hurting_records(500, seed=0),
        "natural": corpus.natural_records(500, seed=0),
    }
    for name, rows in records.items():
        found[name] = tuple(turn.content for row in rows for turn in row.messages if turn.role == "user")
    return found


SOURCES = ("open items", "prompts.jsonl", "composed prompts", "general", "hurting", "natural")


@cache
def wording(template: str) -> regex.Pattern[str]:
    """Matches every question in this wording, whatever the fact; probe openers of chat match as beginnings."""
    parts = [regex.escape(normal(part)) for part in SLOT.sub("\0", template).split("\0")]
    return regex.compile("(.+)".join(parts) if len(parts) > 1 else f"{parts[0]}(.+)")


@pytest.mark.parametrize("source", SOURCES)
def test_no_probe_prompt_occurs_elsewhere(source: str) -> None:
    assert {normal(item.prompt) for item in probe_items()} & {normal(prompt) for prompt in sources()[source]} == set()


@pytest.mark.parametrize("source", SOURCES)
def test_no_probe_wording_occurs_elsewhere(source: str) -> None:
    wordings = [wording(template) for template in sorted({item.template for item in probe_items()})]
    prompts = sources()[source]
    assert [prompt for prompt in prompts if any(shape.fullmatch(normal(prompt)) for shape in wordings)] == []


@pytest.mark.parametrize("skill", SKILLS)
def test_probe_and_open_facts_are_apart(skill: str) -> None:
    probe = {normal(item.fact) for item in skills.items(skill, probe=True)}
    assert probe & {normal(item.fact) for item in skills.items(skill, probe=False)} == set()


def test_the_probe_and_open_halves_of_two_languages_are_the_same_half() -> None:
    """한국/서울 and Korea/Seoul are one fact."""
    probe, wide = (
        {item.fact for item in items if item.fact.startswith("capital:")} for items in (probe_items(), open_items())
    )
    assert probe
    assert wide
    assert not probe & wide


def test_probe_and_open_programs_are_apart() -> None:
    """A program under another name is the same knowledge."""

    def bodies(probe: bool) -> set[str]:
        return {item.answer.partition("(")[2] for item in skills.items("code", probe=probe)}

    assert bodies(True) & bodies(False) == set()


@pytest.mark.parametrize("source", SOURCES)
def test_no_open_prompt_asks_for_a_probe_program_or_tells_a_probe_feeling(source: str) -> None:
    bodies = {item.answer.partition("return ")[2] for item in skills.items("code", probe=True)}
    known = {normal(does) for row in code_table.PROGRAMS if row.body in bodies for does in (row.does_ko, row.does_en)}
    known |= {normal(item.fact) for item in skills.items("chat", probe=True)}
    assert [prompt for prompt in sources()[source] if any(fact in normal(prompt) for fact in known)] == []


def _keys_and_values() -> list[tuple[str, str]]:
    """Of every probe fact that has a name: the name as the question writes it, and the value.

    Opposites are left out: "What causes day and night?" holds two common words and does not tell the fact.
    """
    found = []
    for item in probe_items():
        if item.template in skills.TEMPLATES["opposite"][0]:
            continue
        slot = SLOT.search(item.template)
        if slot is not None and slot.group(1) == "key":
            match = wording(item.template).fullmatch(normal(item.prompt))
            assert match is not None, item.prompt
            # The wording "{key:이/가} ..." leaves a particle on the name.
            name = match.group(1)[:-1] if ":" in slot.group() else match.group(1)
            found.append((name, normal(item.accepts[0])))
    return found


@pytest.mark.parametrize("source", SOURCES)
def test_no_open_prompt_holds_a_probe_fact(source: str) -> None:
    # One-syllable names and values (배: pear) occur inside other words: whole words decide there.
    facts = _keys_and_values()
    leaks = []
    for prompt in sources()[source]:
        plain = normal(prompt)
        words = {normal(word) for word in prompt.split()}
        for key, value in facts:
            if key in plain and value in plain and (min(len(key), len(value)) > 2 or {key, value} <= words):
                leaks.append((prompt, key, value))
    assert leaks == []


def test_the_answers_of_general_records_hold_no_probe_fact_of_the_invented_world() -> None:
    """Villages and people are known from pretraining alone: their names with their values occur nowhere else."""
    invented = [(key, value) for key, value in _keys_and_values() if key.endswith("마을") or key in skills.people()]
    assert len(invented) > 100
    rows = corpus.general_records(ALL, seed=0) + corpus.natural_records(500, seed=0)
    told = [normal(" ".join(turn.content for turn in row.messages)) for row in rows]
    assert [(key, value) for key, value in invented if any(key in text and value in text for text in told)] == []


def test_the_stories_that_hurt_hold_no_probe_prompt() -> None:
    probe = {normal(item.prompt) for item in probe_items()}
    for record in corpus.hurting_records(200, seed=1):
        answer = normal(" ".join(json.loads(record.messages[1].content)["text"]))
        assert not any(prompt in answer for prompt in probe)


@pytest.mark.parametrize("source", SOURCES)
def test_no_question_of_the_general_suite_occurs_elsewhere(source: str) -> None:
    asked = {normal(question.prompt) for questions in general_questions().values() for question in questions}
    assert len(asked) >= 200
    assert asked & {normal(prompt) for prompt in sources()[source]} == set()


def test_no_wording_of_the_general_suite_is_rehearsed() -> None:
    """What both sides compose, they compose from other wordings, words, things and topics."""
    asked = [question for questions in general_questions().values() for question in questions]
    shapes = {
        regex.sub(r"\d+", "0", normal(question.prompt)) for question in asked if question.kind in ("sums", "code")
    }
    rehearsed = sources()["composed prompts"]
    assert shapes & {regex.sub(r"\d+", "0", normal(prompt)) for prompt in rehearsed} == set()
    words = {normal(word) for row in composed_questions._tables()["words"] for word in row}
    assert words & {normal(word) for row in composed_prompts_module._tables()["words"] for word in row} == set()
    things = {normal(thing) for code in ("ko", "en") for thing in composed_questions._tables()[f"form_words_{code}"]}
    assert things & {normal(thing) for row in composed_prompts_module._tables()["things"] for thing in row} == set()
    topics = {normal(topic) for topic in composed_questions._tables()["writing_topics"]}
    assert topics & {normal(topic) for topic in composed_prompts_module._tables()["writing_topics"]} == set()
    requests = [wording(request) for request in composed_questions._tables()["writing_requests"]]
    assert [prompt for prompt in rehearsed if any(shape.fullmatch(normal(prompt)) for shape in requests)] == []
    situations = [normal(situation) for situation, _ in composed_questions._tables()["chat_situations"]]
    assert [prompt for prompt in rehearsed if any(situation in normal(prompt) for situation in situations)] == []
    asked_for = [normal(request) for request in composed_questions._tables()["chat_requests"]]
    assert [prompt for prompt in rehearsed if any(request in normal(prompt) for request in asked_for)] == []
