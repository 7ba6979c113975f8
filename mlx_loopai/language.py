"""The language of messages: they are written in English in the code, and a catalog holds their Korean translation."""

from __future__ import annotations

import gettext
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

Language = Literal["en", "ko"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
DOMAIN = "mlx_loopai"
LOCALES = Path(__file__).parent / "assets" / "locale"

# Where gettext looks, in its order: the first that is set decides.
_VARIABLES = ("LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG")

_catalog: gettext.NullTranslations = gettext.NullTranslations()
_chosen: Language = "en"


def tr(message: str, /, **values: Any) -> str:
    """`message` in the language in use, with `values` in place of its {names}.

    message: in English, a string literal, so that `python -m tools.catalog` finds it. Without values, braces stay.
    """
    found = _catalog.gettext(message)
    return found.format(**values) if values else found


def english(message: str, /, **values: Any) -> str:
    """`message` in English, whatever language is in use: for files that hold both languages."""
    return message.format(**values) if values else message


def use(language: Language) -> None:
    """Use `language` for messages from now on, in the whole process. The library uses English unless this is called."""
    global _catalog, _chosen
    _catalog = gettext.translation(DOMAIN, LOCALES, [language], fallback=True)
    _chosen = language


def in_use() -> Language:
    """The language that messages are in."""
    return _chosen


def from_locale(environment: Mapping[str, str]) -> Language:
    """The language of a locale such as ko_KR.UTF-8, as the environment variables of gettext name it; or English."""
    named = next((environment[name] for name in _VARIABLES if environment.get(name)), "")
    # LANGUAGE may hold several, in order.
    for locale in named.split(":"):
        for language in LANGUAGES:
            if locale.replace("_", ".").split(".")[0] == language:
                return language
    return "en"


def later(message: str) -> str:
    """`message` itself, marked for the catalog: for tables of messages that pass through `tr` when they are shown."""
    return message
