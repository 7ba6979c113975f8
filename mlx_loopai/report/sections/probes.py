"""The section with the arms' scores, task by task, as bars."""

from __future__ import annotations

from collections.abc import Mapping

from mlx_loopai.report.kit import figures
from mlx_loopai.report.kit.elements import Child, Html, element, join
from mlx_loopai.report.kit.page import Section, model_name, said
from mlx_loopai.runs.documents.figures import Kept, TaskScore

_NOTE = said(
    "Share of right answers. The solid mark is the base, the dotted one is chance;"
    " −/+ counts answers that became wrong and right.",
    "정답률입니다. 실선은 원래 모델, 점선은 찍었을 때의 점수이고, −/+는 틀리게 된 답과 맞게 된 답의 수입니다.",
)


def probes_section(arms: Mapping[str, Kept], styles: Mapping[str, str]) -> Section | None:
    """For every task a bar per arm, with the base and chance as marks on it; None without tasks."""
    tasks = list(dict.fromkeys(task for arm in arms.values() for task in arm.probes))
    if not tasks:
        return None
    cards = []
    for task in tasks:
        found = {name: arm.probes[task] for name, arm in arms.items() if task in arm.probes}
        title = element("h3", task, " ", element("small", join(_about(next(iter(found.values()))), " · ")))
        bars = [_bar(name, score, styles[name]) for name, score in found.items()]
        cards.append(element("article", title, bars, class_="card probe"))
    body = [element("div", cards, class_="grid even"), element("p", _NOTE, class_="note")]
    return Section("probes", "Abilities", "능력별 결과", body)


def _about(probe: TaskScore) -> list[Child]:
    chance = figures.fixed(probe.chance, 2)
    return [
        *([f"n = {figures.count(probe.n)}"] if probe.n else []),
        *([said(f"chance {chance}", f"찍을 때 {chance}")] if probe.chance else []),
        *([] if probe.counted else [said("not counted: the base is near chance", "제외: 원래 모델도 찍는 수준")]),
    ]


def _bar(arm: str, probe: TaskScore, style: str) -> Html:
    marks = [
        element(
            "span", class_=f"at {kind}", style=f"left:{_share(value)}", title=f"{kind} · {name} {figures.fixed(value)}"
        )
        for kind, name, value in (("base", "원래 모델", probe.base), ("chance", "찍을 때", probe.chance))
        if value is not None and (kind == "base" or value > 0)
    ]
    track = element(
        "span", element("span", class_=f"fill {style}", style=f"width:{_share(probe.score)}"), marks, class_="track"
    )
    changed = probe.right_to_wrong or probe.wrong_to_right
    churn = f"−{figures.count(probe.right_to_wrong)} +{figures.count(probe.wrong_to_right)}" if changed else ""
    return element(
        "div",
        element("span", model_name(arm), class_="who"),
        track,
        element("span", figures.fixed(probe.score), class_="value"),
        element("span", churn, class_="churn"),
        class_="bar",
    )


def _share(value: float | None) -> str:
    return f"{100 * min(max(value or 0.0, 0.0), 1.0):.1f}%"
