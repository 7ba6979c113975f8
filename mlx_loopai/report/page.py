"""The page around a report's sections: one file, no script, nothing fetched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlx_loopai.report.elements import Child, Html, element
from mlx_loopai.report.style import STYLE

# Even if an answer became markup one day, the page could neither run nor fetch anything.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


@dataclass(frozen=True)
class Section:
    """A titled part of a page; `anchor` is its id."""

    anchor: str
    title: str
    korean: str
    body: Child


def page(title: str, korean: str, about: str, sections: Sequence[Section | None]) -> str:
    """The whole document; `about`: one line under the title. Sections that are None are left out."""
    present = [section for section in sections if section is not None]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("link", rel="icon", href="data:,"),
        element("title", title),
        element("style", Html(STYLE)),
    )
    header = element(
        "header",
        element("p", "mlx-loopai", class_="brand"),
        heading(1, title, korean),
        element("p", about, class_="subtitle"),
        element("nav", [_link(section) for section in present], aria_label="Sections"),
    )
    body = element("body", element("main", header, [_section(section) for section in present]))
    return "<!doctype html>\n" + element("html", head, body, lang="en").markup + "\n"


def heading(level: int, title: str, korean: str) -> Html:
    """An English heading with its Korean subtitle."""
    return element(f"h{level}", title, " ", subtitle(korean))


def subtitle(korean: str) -> Html:
    """A short Korean label beside an English one."""
    return element("span", korean, lang="ko", class_="ko")


def sideways(table: Html, label: str) -> Html:
    """A wide thing that scrolls inside the page instead of widening it."""
    return element("div", table, class_="sideways", role="region", aria_label=label, tabindex="0")


def facts(pairs: Mapping[str, str]) -> Html | None:
    """Names with their values, in two columns; None when there are none."""
    if not pairs:
        return None
    return element("dl", [[element("dt", name), element("dd", value)] for name, value in pairs.items()], class_="facts")


def settings_block(title: str, settings: str, extra: Child = None) -> Html | None:
    """A run's settings, folded away."""
    if not settings.strip():
        return None
    return element("details", element("summary", title), extra, element("pre", settings.rstrip(), tabindex="0"))


def reproduction(command: str, versions: Mapping[str, str], machine: str = "") -> Section:
    """How to do it again, and with what it was done."""
    shown = {**({"machine": machine} if machine else {}), **versions}
    typed = (
        element("pre", command, class_="command", tabindex="0") if command else element("p", "No command was recorded.")
    )
    return Section("reproduce", "Reproduce", "다시 실행하기", [typed, facts(shown)])


def _link(section: Section) -> Html:
    return element("a", section.title, href=f"#{section.anchor}")


def _section(section: Section) -> Html:
    return element("section", heading(2, section.title, section.korean), section.body, id=section.anchor)
