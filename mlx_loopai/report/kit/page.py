"""The page around a report's sections: one file, no script, nothing fetched, in English and Korean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlx_loopai.language import Language
from mlx_loopai.report.kit.elements import Child, Html, element, join
from mlx_loopai.report.kit.style import STYLE

# A second line of defence: even if an answer became markup, the page could neither run nor fetch anything.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_LANGUAGES: dict[Language, str] = {"en": "English", "ko": "한국어"}


@dataclass(frozen=True)
class Section:
    """A titled part of a page; `anchor` is its id."""

    anchor: str
    title: str
    korean: str
    body: Child


def page(title: str, korean: str, about: Child, sections: Sequence[Section | None], language: Language = "en") -> str:
    """The whole document; `about`: one line under the title. Sections that are None are left out.

    The page has both languages; two buttons at the top choose one, at first `language`.
    """
    present = [section for section in sections if section is not None]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("link", rel="icon", href="data:,"),
        element("title", title if language == "en" else korean),
        element("style", Html(STYLE)),
    )
    header = element(
        "header",
        element("p", "mlx-loopai", class_="brand"),
        element("h1", said(title, korean)),
        element("p", about, class_="subtitle"),
        element("nav", [_link(section) for section in present], aria_label="Sections · 목차"),
    )
    body = element("body", _switch(language), element("main", header, [_section(section) for section in present]))
    return "<!doctype html>\n" + element("html", head, body, lang=language).markup + "\n"


def said(english: Child, korean: Child) -> Html:
    """A text in both languages; the style sheet shows the chosen one."""
    return join([element("span", english, lang="en", class_="en"), element("span", korean, lang="ko", class_="ko")])


# The models of a single run; the arms of a comparison have the names that were typed.
_MODELS = {"base": "원래 모델", "fine-tuned": "학습한 모델"}


def model_name(name: str) -> Html:
    """The name of an arm, or of one of the two models of a run, in both languages."""
    return said(name, _MODELS.get(name, name))


def sideways(table: Html, label: str) -> Html:
    """A wide table that scrolls sideways instead of widening the page."""
    return element("div", table, class_="sideways", role="region", aria_label=label, tabindex="0")


def facts(pairs: Sequence[tuple[Child, Child]]) -> Html | None:
    """Names with their values, in two columns; None when there are none."""
    if not pairs:
        return None
    return element("dl", [[element("dt", name), element("dd", value)] for name, value in pairs], class_="facts")


def settings_block(title: Child, settings: str) -> Html | None:
    """A run's settings, folded away."""
    if not settings.strip():
        return None
    return element("details", element("summary", title), element("pre", settings.rstrip(), tabindex="0"))


def reproduction(command: str, versions: Mapping[str, str], machine: str = "") -> Section:
    """The section on how to repeat the run, and on which machine it ran."""
    shown: list[tuple[Child, Child]] = [(said("machine", "컴퓨터"), machine)] if machine else []
    shown += versions.items()
    typed = (
        element("pre", command, class_="command", tabindex="0")
        if command
        else element("p", said("No command was recorded.", "기록된 명령이 없습니다."))
    )
    return Section("reproduce", "Reproduce", "다시 실행하기", [typed, facts(shown)])


def _switch(language: Language) -> list[Html]:
    """Radio buttons before the page's content, so that a style sheet can tell which one is chosen."""
    buttons = [
        element("input", type="radio", name="language", id=code, class_="pick", checked=code == language)
        for code in _LANGUAGES
    ]
    labels = [element("label", name, for_=code, lang=code) for code, name in _LANGUAGES.items()]
    return [*buttons, element("div", labels, class_="languages")]


def _link(section: Section) -> Html:
    return element("a", said(section.title, section.korean), href=f"#{section.anchor}")


def _section(section: Section) -> Html:
    return element("section", element("h2", said(section.title, section.korean)), section.body, id=section.anchor)
