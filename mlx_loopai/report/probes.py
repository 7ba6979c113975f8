"""What the arms can do, ability by ability, as bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlx_loopai.report import figures
from mlx_loopai.report.documents import Arm, ProbeScore
from mlx_loopai.report.elements import Html, element
from mlx_loopai.report.page import Section, subtitle

_NOTE = (
    "Share of right answers. The solid mark is the base, the dotted one is chance;"
    " −/+ counts answers that became wrong and right. "
)


def probes_section(arms: Sequence[Arm], styles: Mapping[str, str]) -> Section | None:
    """For every probe a bar per arm, with the base and chance as marks on it; None without probes."""
    names = list(dict.fromkeys(probe.name for arm in arms for probe in arm.probes))
    if not names:
        return None
    cards = []
    for name in names:
        found = [(arm, probe) for arm in arms for probe in arm.probes if probe.name == name]
        first = found[0][1]
        about = [
            f"n = {figures.count(first.n)}" if first.n else "",
            f"chance {figures.fixed(first.chance, 2)}" if first.chance else "",
            "" if first.counted else "not counted: the base is near chance",
        ]
        title = element("h3", name, " ", element("small", " · ".join(part for part in about if part)))
        bars = [_bar(arm.name, probe, styles[arm.name]) for arm, probe in found]
        cards.append(element("article", title, bars, class_="card probe"))
    note = element("p", _NOTE, subtitle("정답률; 실선은 기준 모델, 점선은 우연"), class_="note")
    return Section("probes", "Abilities", "능력별 결과", [element("div", cards, class_="grid even"), note])


def _bar(arm: str, probe: ProbeScore, style: str) -> Html:
    marks = [
        element("span", class_=f"at {kind}", style=f"left:{_share(value)}", title=f"{kind} {figures.fixed(value)}")
        for kind, value in (("base", probe.base), ("chance", probe.chance))
        if value is not None and (kind == "base" or value > 0)
    ]
    track = element(
        "span", element("span", class_=f"fill {style}", style=f"width:{_share(probe.score)}"), marks, class_="track"
    )
    changed = probe.right_to_wrong or probe.wrong_to_right
    churn = f"−{figures.count(probe.right_to_wrong)} +{figures.count(probe.wrong_to_right)}" if changed else ""
    return element(
        "div",
        element("span", arm, class_="who"),
        track,
        element("span", figures.fixed(probe.score), class_="value"),
        element("span", churn, class_="churn"),
        class_="bar",
    )


def _share(value: float | None) -> str:
    return f"{100 * min(max(value or 0.0, 0.0), 1.0):.1f}%"
