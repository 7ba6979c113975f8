"""The section on the data that a run was trained on: the figures of its audit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlx_loopai.data.audit import Audit, Finding
from mlx_loopai.report.kit import figures
from mlx_loopai.report.kit.elements import Child, Html, element
from mlx_loopai.report.kit.page import Section, facts, said

_LANGUAGES = {
    "hangul": ("Korean", "한국어"),
    "latin": ("Latin script", "로마자"),
    "han": ("Han script", "한자"),
    "kana": ("Japanese", "일본어"),
    "mixed": ("mixed", "섞임"),
    "none": ("no letters", "글자 없음"),
}
_CATEGORIES = {
    "dialogue": ("dialogue", "대화"),
    "knowledge": ("knowledge", "지식"),
    "creative": ("creative", "창작"),
    "domain": ("domain", "도메인"),
}
_RULES = {
    "html": ("HTML", "HTML"),
    "code": ("code", "코드"),
    "url": ("addresses", "주소"),
    "emoji": ("emoji", "이모지"),
    "control": ("hidden characters", "숨은 문자"),
    "foreign": ("foreign scripts", "다른 문자"),
}
_NOTE = said(
    "Every row of the sources, before phases and mixtures draw from them. `mlx-loopai data audit` names the rows.",
    "단계와 혼합 비율에 따라 뽑기 전의 모든 데이터입니다. 어느 행인지는 `mlx-loopai data audit`로 볼 수 있습니다.",
)


def audit_section(audit: Audit | None) -> Section | None:
    """Categories, languages and lengths as bars, and the audit's warnings; None without an audit."""
    if audit is None or not audit.rows:
        return None
    lengths = {f"≤ {bound:,}": (f"≤ {bound:,}",) * 2 for bound in audit.lengths}
    counts = {f"≤ {bound:,}": rows for bound, rows in audit.lengths.items()}
    unit = ("in characters", "글자 수") if audit.length_unit == "characters" else ("in tokens", "토큰 수")
    cards = [
        _card(("Categories", "범주"), audit.categories, _CATEGORIES, audit.rows),
        _card(("Script of the answers", "답의 문자"), audit.languages, _LANGUAGES, audit.rows),
        _card((f"Length of a row, {unit[0]}", f"행의 길이 ({unit[1]})"), counts, lengths, audit.rows),
    ]
    body: Child = [
        [element("p", said(*warning), class_="caveat") for warning in _warnings(audit)],
        element("div", cards, class_="grid even"),
        facts(_findings(audit)),
        element("p", _NOTE, class_="note"),
    ]
    return Section("data", "Training data", "학습 데이터", body)


def _warnings(audit: Audit) -> list[tuple[str, str]]:
    found = []
    if rows := audit.json_shaped.rows:
        found.append(
            (
                f"{rows:,} of {audit.rows:,} rows are answered in JSON: a model that learns them may answer everything"
                " in JSON.",
                f"{audit.rows:,}행 가운데 {rows:,}행의 답이 JSON입니다."
                " 이 데이터로 학습하면 무엇이든 JSON으로 답하게 될 수 있습니다.",
            )
        )
    if rows := audit.near_duplicates.rows:
        found.append((f"{rows:,} rows repeat another, or nearly.", f"{rows:,}행이 다른 행과 같거나 거의 같습니다."))
    if audit.personal:
        kinds = ", ".join(f"{kind} ({finding.rows:,})" for kind, finding in audit.personal.items())
        found.append((f"Rows that may hold personal data: {kinds}.", f"개인정보로 보이는 내용이 있는 행: {kinds}."))
    return found


def _findings(audit: Audit) -> Sequence[tuple[Child, Child]]:
    def share(finding: Finding) -> str:
        return f"{finding.rows:,} ({figures.percent(finding.rows / audit.rows)})"

    rules: list[tuple[Child, Child]] = [
        (said(*_RULES.get(rule, (rule, rule))), share(finding)) for rule, finding in audit.contamination.items()
    ]
    return [
        (said("rows", "행"), f"{audit.rows:,}"),
        (said("answers in JSON", "JSON으로 된 답"), share(audit.json_shaped)),
        (said("repeated", "중복"), share(audit.duplicates)),
        (said("repeated, or nearly", "거의 같은 것까지"), share(audit.near_duplicates)),
        *rules,
    ]


def _card(title: tuple[str, str], counts: Mapping[str, int], names: Mapping[str, tuple[str, ...]], rows: int) -> Html:
    bars = [
        element(
            "div",
            element("span", said(*names.get(name, (name, name))), class_="who"),
            element(
                "span", element("span", class_="fill c6", style=f"width:{100 * count / rows:.1f}%"), class_="track"
            ),
            element("span", f"{count:,}", class_="value"),
            class_="bar counted",
        )
        for name, count in counts.items()
    ]
    return element("article", element("h3", said(*title)), bars, class_="card")
