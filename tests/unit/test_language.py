"""Which language is spoken, and how a message gets its values."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mlx_loopai import language


@pytest.fixture(autouse=True)
def _english_again() -> Iterator[None]:
    yield
    language.use("en")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "en"),
        ({"LANG": "ko_KR.UTF-8"}, "ko"),
        ({"LANG": "ko"}, "ko"),
        ({"LANG": "kok_IN.UTF-8"}, "en"),
        ({"LANG": "C.UTF-8"}, "en"),
        ({"LC_ALL": "en_US.UTF-8", "LANG": "ko_KR.UTF-8"}, "en"),
        ({"LC_MESSAGES": "ko_KR.eucKR", "LANG": "en_US.UTF-8"}, "ko"),
        ({"LANGUAGE": "de:ko:en", "LANG": "en_US.UTF-8"}, "ko"),
        ({"LANGUAGE": "", "LANG": "ko_KR.UTF-8"}, "ko"),
    ],
)
def test_the_locale_names_the_language(environment: dict[str, str], expected: str) -> None:
    assert language.from_locale(environment) == expected


def test_a_message_is_english_until_another_language_is_chosen() -> None:
    message = "{path}: holds no rows ({endings}){hint}"
    assert language.tr(message, path="a", endings=".jsonl", hint="") == "a: holds no rows (.jsonl)"
    language.use("ko")
    assert language.in_use() == "ko"
    assert language.tr(message, path="a", endings=".jsonl", hint="").startswith("a: 행이 없습니다")
    language.use("en")
    assert language.tr("none") == "none"


def test_braces_in_a_value_or_in_a_message_without_values_are_text() -> None:
    assert language.tr("unknown key {dotted}", dotted="{x}") == "unknown key {x}"
    assert language.tr("a {table}") == "a {table}"
    assert language.english("{name} is missing", name="{0}") == "{0} is missing"
