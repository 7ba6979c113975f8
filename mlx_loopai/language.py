"""The language that a person is spoken to in: messages are written in English, and a catalog holds their Korean."""

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

    message: the English one, a literal, for `python -m tools.catalog` to find. Without values braces stay as they are.
    """
    found = _catalog.gettext(message)
    return found.format(**values) if values else found


def english(message: str, /, **values: Any) -> str:
    """`message` as it is written, whatever language is in use: for what a file holds in both."""
    return message.format(**values) if values else message


def use(language: Language) -> None:
    """Speak `language` from now on, in the whole process. A library speaks English until its program asks for more."""
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
    """`message` itself: a table holds it, and whoever shows it asks `tr`. The catalog finds it here."""
    return message
