"""Writes race results as Markdown tables and as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlx_loopai.benchmark.backends import OWN, OWN_COMPILED
from mlx_loopai.benchmark.costs import Price, rate_of_equal_cost
from mlx_loopai.benchmark.results import Result
from mlx_loopai.report.kit.elements import element
from mlx_loopai.report.kit.figures import UNKNOWN, count, duration, fixed, percent, size
from mlx_loopai.report.kit.style import STYLE
from mlx_loopai.report.kit.svg import WIDTH
from mlx_loopai.runs.documents.race import Between, GenerateRace, Machine, Ratio, TrainRace

_LABEL, _BAR, _TOP = 96.0, 22.0, 26.0


def result_table(result: Result) -> str:
    """A race as Markdown: a column for each side, its figures and our sides' ratios to it."""
    sides = result.backends
    rows = _training_rows(result) if isinstance(result, TrainRace) else _generation_rows(result)
    lines = ["| | " + " | ".join(map(_label, sides)) + " |", "|---|" + "---:|" * len(sides)]
    return "\n".join([*lines, *("| " + " | ".join([name, *cells]) + " |" for name, cells in rows)])


def conditions_text(result: Result) -> str:
    """One paragraph: the machine, the case, the rounds, and what disturbed them."""
    case = ", ".join(f"{name.replace('_', ' ')} {_short(value)}" for name, value in result.case.items())
    text = f"{_machine(result.machine)} Case: {case}; {result.rounds} rounds."
    disturbed = "; ".join(result.disturbances)
    return f"{text} Disturbed: {disturbed}." if disturbed else text


def _machine(machine: Machine | None) -> str:
    if machine is None:
        return "On a machine that was not recorded."
    threads = f", MKL_NUM_THREADS={machine.threads}" if machine.threads else ""
    versions = ", ".join(f"{name} {found}" for name, found in machine.versions.items())
    return f"{machine.chip}, {machine.cores} cores{threads}; {versions}."


def cost_table(result: Result, prices: list[Price]) -> str:
    """Cost of a million tokens at each side's rate, and the rate at which a dearer machine would cost the same."""
    sides = result.backends
    first = result.rate(next(iter(sides)))
    lines = ["| machine | $/hour | " + " | ".join(f"$/million tokens at {_label(name)}'s rate" for name in sides)]
    lines[0] += " | tokens/s to cost the same as the first |"
    lines.append("|---|" + "---:|" * (len(sides) + 2))
    for price in prices:
        cells = [f"{price.per_million_tokens(result.rate(name)):.3g}" for name in sides]
        equal = count(rate_of_equal_cost(prices[0], price, first))
        lines.append(f"| {price.name} | {price.dollars_per_hour:g} | " + " | ".join([*cells, equal]) + " |")
    return "\n".join(lines)


def comparison_table(compared: dict[str, Any]) -> str:
    """Two results side by side."""
    rate = (TrainRace if compared["kind"] == "train" else GenerateRace).RATE
    lines = ["| | tokens/s before | after | ratio | peak before | after | ratio |", "|---|" + "---:|" * 6]
    for name, side in compared["backends"].items():
        before, after, ratio = side["before"], side["after"], compared["ratios"][name]
        cells = [fixed(before[rate], 1), fixed(after[rate], 1), fixed(ratio[rate], 2)]
        cells += [size(before["peak_bytes"]), size(after["peak_bytes"]), fixed(ratio["peak_bytes"], 2)]
        lines.append(f"| {_label(name)} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, *(f"\nDifferent: {line}" for line in compared["differences"])])


def picture(result: Result) -> str:
    """The sides' rates as bars with their intervals: a stand-alone SVG file."""
    bars = [(_label(name), result.rate(name), side.interval) for name, side in result.backends.items()]
    top = max(max(value, interval[1]) for _, value, interval in bars) or 1.0
    room = WIDTH - _LABEL - 64
    children = [element("text", result.RATE.replace("_", " "), x=4, y=14, class_="axis")]
    for place, (name, value, (low, high)) in enumerate(bars):
        y = _TOP + place * (_BAR + 8)
        middle = y + _BAR / 2
        left, right = (_LABEL + room * end / top for end in (low, high))
        width = room * value / top
        children += [
            element("text", name, x=_LABEL - 8, y=middle + 4, class_="tick", text_anchor="end"),
            element("rect", x=_LABEL, y=y, width=width, height=_BAR, fill=f"var(--c{place})"),
            element("line", x1=left, y1=middle, x2=right, y2=middle, stroke="var(--ink)"),
            element("text", fixed(value, 1), x=max(right, _LABEL + width) + 6, y=middle + 4, class_="tick"),
        ]
    height = _TOP + len(bars) * (_BAR + 8)
    drawn = element("svg", children, viewBox=f"0 0 {WIDTH:g} {height:g}", role="img", aria_label="rates of a race")
    head, _, rest = drawn.markup.partition(">")
    return f'{head} xmlns="http://www.w3.org/2000/svg"><style>{STYLE}svg{{background:var(--card)}}</style>{rest}\n'


def _training_rows(result: TrainRace) -> list[tuple[str, list[str]]]:
    sides = list(result.backends.values())
    return [
        ("supervised tokens/s", [_with_interval(side.supervised_tokens_per_s, side.interval) for side in sides]),
        *_ratio_rows(result, "supervised_tokens_per_s", "times that rate"),
        ("peak above the weights", [size(side.peak_bytes) for side in sides]),
        *_ratio_rows(result, "peak_bytes", "share of that peak"),
        ("real tokens of those computed", [percent(side.real_token_share) for side in sides]),
        ("first loss", [fixed(side.loss_first, 5) for side in sides]),
        ("held-out NLL after", [fixed(side.held_out_nll, 4) for side in sides]),
        ("start", [duration(side.start_s) for side in sides]),
        ("first steps of each shape", [duration(side.first_s) for side in sides]),
        ("share of peak FLOP/s", [percent(side.flops_share) for side in sides]),
    ]


def _generation_rows(result: GenerateRace) -> list[tuple[str, list[str]]]:
    sides = list(result.backends.values())
    rows = []
    for batch in sides[0].batches:
        found = [side.batches[batch] for side in sides]
        rows += [
            (
                f"batch {batch}: answer tokens/s",
                [_with_interval(one.tokens_per_s, one.interval) for one in found],
            ),
            (f"batch {batch}: prompt tokens/s", [fixed(one.prefill_tokens_per_s, 1) for one in found]),
            (f"batch {batch}: time to first token", [duration(one.first_token_s) for one in found]),
            (f"batch {batch}: peak above the weights", [size(one.peak_bytes) for one in found]),
        ]
    shares = [percent(next(iter(side.batches.values())).bandwidth_share) for side in sides]
    return [*rows, ("share of peak bandwidth", shares), ("start", [duration(side.start_s) for side in sides])]


def _ratio_rows(result: Result, name: str, words: str) -> list[tuple[str, list[str]]]:
    rows = []
    for one in result.backends:
        ratios = {other: result.ratios.get(f"{one}/{other}") for other in result.backends}
        if any(ratios.values()):
            rows.append((f"{_label(one)}: {words}", [_ratio_cell(ratio, name) for ratio in ratios.values()]))
    return rows


def _ratio_cell(ratios: Mapping[str, Ratio | None] | None, name: str) -> str:
    if ratios is None:
        return ""
    found = ratios[name]
    return _with_interval(found.median, (found.low, found.high), 2) if found else UNKNOWN


def _label(side: str) -> str:
    return f"{OWN} (compiled)" if side == OWN_COMPILED else side


def _with_interval(value: float, interval: Between, digits: int = 1) -> str:
    return f"{fixed(value, digits)} ({fixed(interval[0], digits)} to {fixed(interval[1], digits)})"


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{name.replace('_', ' ')} {inner}" for name, inner in value.items()) + ")"
    return str(value)
