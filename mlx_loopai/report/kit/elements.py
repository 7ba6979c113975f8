"""Builds HTML as values: text is escaped unless it was built here, so no model output can become markup."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from typing import TypeAlias

_VOID = frozenset({"br", "hr", "input", "link", "meta"})
# Characters that reorder the text around them. They are shown as code points, so that they have no effect.
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@dataclass(frozen=True)
class Html:
    """Markup that is escaped already."""

    markup: str


Child: TypeAlias = "Html | str | Iterable[Child] | None"


def element(tag: str, /, *children: Child, **attributes: str | float | bool | None) -> Html:
    """`<tag attributes>children</tag>`; strings are escaped.

    In attribute names a trailing underscore is dropped (`class_`) and others become hyphens (`stroke_width`).
    None and False leave a child or an attribute out, True gives an attribute without a value.
    """
    opening = "".join([tag, *(_attribute(name, value) for name, value in attributes.items())])
    if tag in _VOID:
        return Html(f"<{opening}>")
    return Html(f"<{opening}>{join(children).markup}</{tag}>")


def join(children: Iterable[Child], between: str = "") -> Html:
    """The children one after the other, with `between` (escaped) in the gaps."""
    return Html(escape(between).join(_markup(child) for child in children if child is not None))


def visible(text: str) -> str:
    """`text` with line ends as `\\n`, and controls, bidi marks and lone surrogates as their code points: ⟦U+202E⟧."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return "".join(f"⟦{code_point(char)}⟧" if is_hidden(char) else char for char in text)


def is_hidden(char: str) -> bool:
    """True for characters that a page cannot show or that change how the others are shown."""
    return char in _BIDI or (char not in "\n\t" and unicodedata.category(char) in ("Cc", "Cs"))


def code_point(char: str) -> str:
    """`U+202E`."""
    return f"U+{ord(char):04X}"


def _markup(child: Child) -> str:
    if isinstance(child, Html):
        return child.markup
    if isinstance(child, str):
        return escape(visible(child))
    return "" if child is None else join(child).markup


def _attribute(name: str, value: str | float | bool | None) -> str:
    if value is None or value is False:
        return ""
    name = name.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(visible(str(value)))}"'
