"""The curves of a run: losses smoothed within phases, long runs thinned, phases as bands."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

from mlx_loopai.report import figures
from mlx_loopai.report.documents import Step
from mlx_loopai.report.elements import Html, element
from mlx_loopai.report.svg import Band, Curve, Point, line_chart

MOST_POINTS = 400
_WINDOWS_PER_PHASE = 16


def loss_figure(steps: Sequence[Step], colour: str, title: str, y_values: Iterable[float] = ()) -> Html:
    """The loss of every step, faint, and its moving average; skipped steps are ticks at the bottom."""
    raw = [(step.step, step.loss) for step in steps]
    curves = [Curve(thinned(raw), f"{colour} faint"), *(Curve(part, colour) for part in _smooth_by_phase(steps))]
    skipped = [float(step.step) for step in steps if step.skipped]
    picture = line_chart(curves, title, bands_of(steps), y_values, thinned_steps(skipped))
    note = f"; {len(skipped)} skipped" if skipped else ""
    return _figure(title, "학습 손실", picture, f"Nats per token: {_from_to([loss for _, loss in raw])}{note}")


def value_figure(
    steps: Sequence[Step], value: Callable[[Step], float | None], colour: str, title: str, korean: str
) -> Html | None:
    """One quantity of every step; None when no step has it or when it is zero throughout."""
    points = [(step.step, value(step)) for step in steps]
    if not any(y for _, y in points):
        return None
    picture = line_chart([Curve(thinned(points), colour)], title, bands_of(steps))
    return _figure(title, korean, picture, _last_and_highest([y for _, y in points]))


def bands_of(steps: Sequence[Step]) -> list[Band]:
    """One numbered band for each stretch of steps of the same phase; none when the run had one phase."""
    found: list[tuple[int, int]] = []
    for _, group in groupby(steps, key=lambda step: step.phase):
        stretch = list(group)
        found.append((stretch[0].step, stretch[-1].step))
    if len(found) < 2:
        return []
    # A band reaches to where the next one begins, so that they touch.
    ends = [start for start, _ in found[1:]] + [found[-1][1]]
    return [Band(start, end, str(n)) for n, ((start, _), end) in enumerate(zip(found, ends, strict=True), 1)]


def phase_names(steps: Sequence[Step]) -> list[str]:
    """The name of each band, in order; empty when the run had one phase."""
    names = [name for name, _ in groupby(step.phase for step in steps)]
    return names if len(names) > 1 else []


def thinned(points: Sequence[Point], limit: int = MOST_POINTS) -> list[Point]:
    """At most about `limit` points; of each stretch the lowest and the highest stay, so that spikes do."""
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


def _smooth_by_phase(steps: Sequence[Step]) -> list[list[Point]]:
    parts = []
    for _, group in groupby(steps, key=lambda step: step.phase):
        points = [(step.step, step.loss) for step in group]
        parts.append(thinned(moving_average(points, max(3, len(points) // _WINDOWS_PER_PHASE))))
    return parts


def _from_to(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "no finite value"
    first, last, low, high = map(figures.rounded, (known[0], known[-1], min(known), max(known)))
    return f"first {first}, last {last}; lowest {low}, highest {high}"


def _last_and_highest(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"highest {figures.rounded(max(known))}, last {figures.rounded(known[-1])}" if known else "no finite value"


def _figure(title: str, korean: str, picture: Html, note: str) -> Html:
    heading = element("figcaption", element("b", title), " ", element("span", korean, lang="ko", class_="ko"))
    return element("figure", heading, picture, element("p", note, class_="note"))
