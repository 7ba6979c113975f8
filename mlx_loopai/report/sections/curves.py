"""The curves of a run: noisy ones smoothed within phases, long runs thinned, phases as bands."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

from mlx_loopai.report.kit import figures
from mlx_loopai.report.kit.elements import Html, element
from mlx_loopai.report.kit.page import said
from mlx_loopai.report.kit.svg import Band, Curve, Point, line_chart
from mlx_loopai.runs.documents.events import Step

MOST_POINTS = 400
NATS = ("nats per token", "토큰당 내트")
_WINDOWS_PER_PHASE = 16

Quantity = Callable[[Step], float | None]


def noisy_figure(
    steps: Sequence[Step],
    value: Quantity,
    colour: str,
    title: tuple[str, str],
    unit: tuple[str, str] = ("", ""),
    y_values: Iterable[float] = (),
) -> Html:
    """One quantity of every step, faint, and its moving average in each phase; skipped steps are ticks at the bottom.

    y_values: further values the y axis must hold, so that pictures side by side share their scale.
    """
    raw = [(step.step, value(step)) for step in steps]
    smooth = [Curve(part, colour) for part in _smooth_by_phase(steps, value)]
    skipped = [float(step.step) for step in steps if step.skipped]
    curves = [Curve(thinned(raw), f"{colour} faint"), *smooth]
    picture = line_chart(curves, " · ".join(title), bands_of(steps), y_values, thinned_steps(skipped))
    count = (f"{len(skipped)} skipped", f"{len(skipped)}번 건너뜀") if skipped else ("", "")
    notes = zip(unit, _extremes([y for _, y in raw]), count, strict=True)
    english, korean = ("; ".join(part for part in parts if part) for parts in notes)
    return drawn(title, picture, said(english, korean))


def value_figure(steps: Sequence[Step], value: Quantity, colour: str, title: tuple[str, str]) -> Html | None:
    """One quantity of every step as it is; None when no step has it or when it is zero throughout."""
    points = [(step.step, value(step)) for step in steps]
    if not any(y for _, y in points):
        return None
    picture = line_chart([Curve(thinned(points), colour)], " · ".join(title), bands_of(steps))
    highest = figures.rounded(max(y for _, y in points if y is not None))
    return drawn(title, picture, said(f"highest {highest}", f"최고 {highest}"))


def kept_figure(readings: Sequence[Point], steps: Sequence[Step], colour: str) -> Html | None:
    """The monitor's readings over the steps, 1 being the base; None without readings."""
    units = (
        "exp(-KL from the base) per token, two thirds of the furthest kind's KL where that is more; 1: unchanged",
        "토큰당 exp(-원래 모델과의 KL), 가장 멀어진 종류의 3분의 2가 더 크면 그 값으로; 1이면 그대로",
    )
    return _readings_figure(readings, steps, colour, ("General answers kept", "남은 일반 능력"), units, (1.0,))


def validation_figure(readings: Sequence[Point], steps: Sequence[Step], colour: str) -> Html | None:
    """The loss on held-out rows over the steps; None when they were not scored meanwhile."""
    return _readings_figure(readings, steps, colour, ("Loss on held-out rows", "검증 데이터의 손실"), NATS)


def _readings_figure(
    readings: Sequence[Point],
    steps: Sequence[Step],
    colour: str,
    title: tuple[str, str],
    units: tuple[str, str],
    y_values: Iterable[float] = (),
) -> Html | None:
    if not readings:
        return None
    picture = line_chart([Curve(thinned(readings), colour)], " · ".join(title), bands_of(steps), y_values)
    known = _extremes([y for _, y in readings])
    return drawn(title, picture, said(*(f"{unit}; {extremes}" for unit, extremes in zip(units, known, strict=True))))


def bands_of(steps: Sequence[Step]) -> list[Band]:
    """One numbered band for each stretch of steps of the same phase; none when the run had one phase."""
    found: list[tuple[int, int]] = []
    for _, group in groupby(steps, key=lambda step: step.phase):
        stretch = list(group)
        found.append((stretch[0].step, stretch[-1].step))
    if len(found) < 2:
        return []
    # Each band ends where the next one begins, so that they touch.
    ends = [start for start, _ in found[1:]] + [found[-1][1]]
    return [Band(start, end, str(n)) for n, ((start, _), end) in enumerate(zip(found, ends, strict=True), 1)]


def phase_names(steps: Sequence[Step]) -> list[str]:
    """The name of each band, in order; empty when the run had one phase."""
    names = [name for name, _ in groupby(step.phase for step in steps)]
    return names if len(names) > 1 else []


def thinned(points: Sequence[Point], limit: int = MOST_POINTS) -> list[Point]:
    """At most about `limit` points; the lowest and the highest of each stretch are kept, and with them all spikes."""
    if len(points) <= limit:
        return list(points)
    width = math.ceil(2 * len(points) / limit)
    found: list[Point] = []
    for start in range(0, len(points), width):
        stretch = points[start : start + width]
        known = [index for index, (_, y) in enumerate(stretch) if y is not None]
        if not known:
            found.append(stretch[0])
            continue
        low = min(known, key=lambda index: stretch[index][1] or 0.0)
        high = max(known, key=lambda index: stretch[index][1] or 0.0)
        found += [stretch[index] for index in sorted({low, high})]
    return found


def thinned_steps(steps: Sequence[float], limit: int = MOST_POINTS) -> list[float]:
    """At most `limit` of the steps, evenly."""
    return list(steps[:: max(1, math.ceil(len(steps) / limit))])


def moving_average(points: Sequence[Point], window: int) -> list[Point]:
    """The centred mean of `window` neighbours; gaps are left out of the mean."""
    half = window // 2
    sums, counts = [0.0], [0]
    for _, y in points:
        sums.append(sums[-1] + (y or 0.0))
        counts.append(counts[-1] + (y is not None))
    found: list[Point] = []
    for index, (x, _) in enumerate(points):
        low, high = max(0, index - half), min(len(points), index + half + 1)
        n = counts[high] - counts[low]
        found.append((x, (sums[high] - sums[low]) / n if n else None))
    return found


def _smooth_by_phase(steps: Sequence[Step], value: Quantity) -> list[list[Point]]:
    parts = []
    for _, group in groupby(steps, key=lambda step: step.phase):
        points = [(step.step, value(step)) for step in group]
        parts.append(thinned(moving_average(points, max(3, len(points) // _WINDOWS_PER_PHASE))))
    return parts


def _extremes(values: Sequence[float | None]) -> tuple[str, str]:
    """The lowest, highest and last value, in English and Korean."""
    known = [value for value in values if value is not None]
    if not known:
        return "no finite value", "유한한 값 없음"
    low, high, last = map(figures.rounded, (min(known), max(known), known[-1]))
    return f"{low} to {high}, last {last}", f"{low}~{high}, 마지막 {last}"


def drawn(title: tuple[str, str], picture: Html, note: Html) -> Html:
    """A picture with its title above and a note below."""
    heading = element("figcaption", element("b", said(*title)))
    return element("figure", heading, picture, element("p", note, class_="note"))
