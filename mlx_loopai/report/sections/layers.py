"""The section on where adapters changed the model most: the size of their updates, block by block."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlx_loopai.report.kit import figures
from mlx_loopai.report.kit.elements import Html, element
from mlx_loopai.report.kit.page import Section, model_name, said
from mlx_loopai.report.kit.svg import Curve, Point, line_chart
from mlx_loopai.report.sections.curves import drawn

_BLOCK = re.compile(r"(?:^|\.)layers\.(\d+)\.(\w+)")
_PARTS = {"self_attn": ("attention", "어텐션", "c6"), "mlp": ("MLP", "MLP", "c5")}


@dataclass(frozen=True)
class Change:
    """The update of one adapter. norms: adapted module -> Frobenius norm of its update."""

    name: str
    style: str
    norms: Mapping[str, float]


def layers_section(changes: Sequence[Change]) -> Section | None:
    """One curve per adapter over the blocks; for a single adapter, one each for attention and MLP. None without any."""
    changes = [change for change in changes if _by_block(change.norms)]
    if not changes:
        return None
    if len(changes) == 1:
        norms = changes[0].norms
        named = [(said(*names), style, _of_part(norms, part)) for part, (*names, style) in _PARTS.items()]
    else:
        named = [(model_name(one.name), one.style, dict(one.norms)) for one in changes]
    curves = [(name, style, points) for name, style, norms in named if (points := _by_block(norms))]
    title = ("Size of the change by block", "층별 변화의 크기")
    picture = line_chart([Curve(points, style) for _, style, points in curves], " · ".join(title), y_values=(0.0,))
    names = [element("li", element("span", class_=f"dot {style}"), name) for name, style, _ in curves]
    note = said(
        "Frobenius norm of the adapter's update, all matrices of a block together; the first block is 0.",
        "어댑터가 더하는 행렬의 프로베니우스 노름을 층마다 합친 값이며, 첫 층이 0입니다.",
    )
    body = [
        element(
            "div", drawn(title, element("div", picture, element("ul", names, class_="legend")), note), class_="narrow"
        ),
        *(_largest(change) for change in changes),
    ]
    return Section("layers", "Change by layer", "층별 변화", body)


def _of_part(norms: Mapping[str, float], part: str) -> dict[str, float]:
    return {name: norm for name, norm in norms.items() if (found := _BLOCK.search(name)) and found[2] == part}


def _by_block(norms: Mapping[str, float]) -> list[Point]:
    squares: dict[int, float] = {}
    for name, norm in norms.items():
        if found := _BLOCK.search(name):
            block = int(found[1])
            squares[block] = squares.get(block, 0.0) + norm * norm
    return [(block, math.sqrt(square)) for block, square in sorted(squares.items())]


def _largest(change: Change) -> Html:
    module, norm = max(change.norms.items(), key=lambda item: item[1])
    whole = figures.rounded(math.sqrt(sum(norm * norm for norm in change.norms.values())))
    return element(
        "p",
        said(
            f"{change.name}: {whole} in all; the largest is {module} with {figures.rounded(norm)}.",
            f"{change.name}: 전체 {whole}; 가장 큰 것은 {module}, {figures.rounded(norm)}.",
        ),
        class_="note",
    )
