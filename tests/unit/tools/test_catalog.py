"""The Korean catalog: it says all that the program says, nothing else, and with the same values."""

from __future__ import annotations

import ast
import gettext
import json
import re
from string import Formatter
from typing import get_args

import pytest

pytest.importorskip("babel")

from mlx_loopai.cli.main import COMMANDS
from mlx_loopai.config import RunConfig
from mlx_loopai.memory.guard_terms import NO_GUARD
from mlx_loopai.memory.machine import EVIDENCE, Evidence, named_machine
from mlx_loopai.memory.plan import plan
from mlx_loopai.models.load import NANO_FOLDER
from mlx_loopai.models.shape import ModelShape
from tests.unit.test_translations import OTHER_WORDS
from tools.catalog import CONVERTERS, DOMAIN, LOCALES, MO, PACKAGE, Message, messages, translations

# What must be typed as it is: flags, commands, files, and arguments in backticks that become flags.
_TYPED = re.compile(
    rf"`[^`]+`|(?<![\w-])--[a-z][a-z-]*|\$?\b[A-Z]+(?:_[A-Z]+)+\b|\bmlx-loopai (?:{'|'.join(COMMANDS)})\b", re.ASCII
)


@pytest.fixture(scope="module")
def korean() -> dict[Message, str]:
    return translations()


def english(message: Message) -> str:
    return message if isinstance(message, str) else message[1]


def values(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name}


def typed(text: str) -> set[str]:
    return set(_TYPED.findall(text))


def test_every_message_has_its_korean_and_none_is_left_over(korean: dict[Message, str]) -> None:
    said = set(messages())
    assert said - set(korean) == set(), "run `python -m tools.catalog` and translate them"
    assert set(korean) - said == set(), "run `python -m tools.catalog`"
    assert [message for message, text in korean.items() if not text] == []


def test_the_terms_of_a_plan_and_what_a_working_set_rests_on_are_messages() -> None:
    """They are shown by their names, which only the places that make them know."""
    shape = ModelShape.from_config(json.loads((NANO_FOLDER / "config.json").read_text(encoding="utf-8")))
    planned = plan(shape, RunConfig(), named_machine("m4-16gb"), NO_GUARD)
    assert {*planned.terms, *get_args(Evidence)} <= set(messages())
    assert EVIDENCE.keys() == set(get_args(Evidence))


def test_no_message_stands_where_the_catalog_does_not_find_it() -> None:
    """Babel reads no call inside an f-string: such a message would stay English."""
    said = set(messages())
    calls = [
        (file.name, node)
        for folder in (PACKAGE, CONVERTERS)
        for file in folder.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("tr", "later", "say")
    ]
    literals = [(name, node.args[0].value) for name, node in calls if isinstance(node.args[0], ast.Constant)]
    assert [(name, message) for name, message in literals if message not in said] == []
    assert len(literals) > 1000


def test_the_compiled_catalog_is_that_of_the_written_one(korean: dict[Message, str]) -> None:
    with MO.open("rb") as file:
        compiled = gettext.GNUTranslations(file)
    for message, text in korean.items():
        found = compiled.gettext(message) if isinstance(message, str) else compiled.ngettext(*message, 2)
        assert found == text, "run `python -m tools.catalog`"


def test_values_stay_the_same(korean: dict[Message, str]) -> None:
    wrong = [
        message
        for message, text in korean.items()
        # A message without values is never formatted, and may hold braces.
        if values(text) != values(english(message)) and "{" in text + english(message)
    ]
    # The form for any number may leave the number out.
    assert [message for message in wrong if isinstance(message, str)] == []


def test_what_a_person_types_stays_as_it_is(korean: dict[Message, str]) -> None:
    assert [message for message, text in korean.items() if typed(text) != typed(english(message))] == []


def test_korean_begins_and_ends_as_the_english_does(korean: dict[Message, str]) -> None:
    """Parts that are put together keep the space or line break between them."""
    for message, text in korean.items():
        said = english(message)
        assert text[:1].isspace() == said[:1].isspace(), message
        assert text[-1:].isspace() == said[-1:].isspace(), message


def test_gettext_finds_the_catalog() -> None:
    assert gettext.find(DOMAIN, LOCALES, ["ko"]) == str(MO)


def test_messages_and_guides_use_the_same_korean_words(korean: dict[Message, str]) -> None:
    assert not [text for text in korean.values() if OTHER_WORDS.search(text)]
