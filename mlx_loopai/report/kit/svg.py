"""Draws curves and points as inline SVG, without script or library; every coordinate is finite.

A picture is WIDTH units wide, and the page scales it. Colours come from its style sheet (class `c0`, `c1`, ...).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mlx_loopai.report.kit.elements import Html, element

WIDTH = 360.0
HEIGHT = 190.0
LEFT, RIGHT, TOP, BOTTOM = 44.0, 10.0, 18.0, 28.0
# Values are clamped to this: a larger one only means "diverged", and sums of such values overflow.
_LARGEST = 1e15
_TICKS = 4
_LABEL_HEIGHT = 14.0
_CHAR_WIDTH = 6.6

Point = tuple[float, float | None]


@dataclass(frozen=True)
class Curve:
    """Points (x, y) from left to right; a y of None is a gap. `style`: classes such as `c1 faint`."""

    points: Sequence[Point]
    style: str


@dataclass(frozen=True)
class Band:
    """A stretch of the x axis, such as a phase; `name` is written above it if there is room."""

    start: float
    end: float
    name: str


@dataclass(frozen=True)
class Spot:
    """A named point with intervals; `hollow` for a reference that was not measured against anything."""

    name: str
    x: float
    y: float
    x_interval: tuple[float, float] | None
    y_interval: tuple[float, float] | None
    style: str
    hollow: bool = False


@dataclass(frozen=True)
class Axis:
    """Maps values low..high to coordinates start..end."""

    low: float
    high: float
    start: float
    end: float

    @staticmethod
    def over(values: Iterable[float], start: float, end: float, margin: float = 0.06) -> Axis:
        """An axis that holds all the finite values with a margin; 0..1 when there are none."""
        held = [_clamped(value) for value in values if math.isfinite(value)]
        low, high = (min(held), max(held)) if held else (0.0, 1.0)
        span = high - low
        if span <= 1e-9 * max(abs(low), abs(high)) or span < 1e-12:
            room = 0.1 * abs(low) or 0.5
            return Axis(low - room, high + room, start, end)
        return Axis(low - margin * span, high + margin * span, start, end)

    def at(self, value: float) -> float:
        """The coordinate of a value; values outside are put at the edge."""
        share = (_clamped(value) - self.low) / (self.high - self.low)
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)

    def ticks(self, whole: bool = False) -> list[float]:
        """Round values on the axis, about `_TICKS` of them; `whole`: integers only."""
        rough = (self.high - self.low) / _TICKS
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough)
        if whole:
            step = max(1.0, math.ceil(step))
        first = math.ceil(self.low / step)
        return [index * step for index in range(first, first + 2 * _TICKS + 3) if index * step <= self.high]


def line_chart(
    curves: Sequence[Curve],
    label: str,
    bands: Sequence[Band] = (),
    y_values: Iterable[float] = (),
    flaws: Sequence[float] = (),
) -> Html:
    """Curves over whole-numbered steps.

    y_values: further values the y axis must hold, so that pictures side by side share their scale.
    flaws: steps marked at the bottom, such as skipped ones.
    """
    points = [point for curve in curves for point in curve.points]
    x = Axis.over([*(px for px, _ in points), *_ends(bands)], LEFT, WIDTH - RIGHT, margin=0.0)
    y = Axis.over([*(py for _, py in points if py is not None), *y_values], HEIGHT - BOTTOM, TOP)
    children = [
        *_bands(bands, x),
        *_grid(x, y, x_whole=True),
        *(_path(curve, x, y) for curve in curves),
        *(_line(x.at(flaw), HEIGHT - BOTTOM - 8, x.at(flaw), HEIGHT - BOTTOM, "flaw") for flaw in flaws),
    ]
    return _picture(children, label, HEIGHT)


def scatter(
    spots: Sequence[Spot],
    label: str,
    x_name: tuple[str, str],
    y_name: tuple[str, str],
    floor: float,
    height: float = 270.0,
) -> Html:
    """Named points with their intervals; the part at or above the x floor is shaded. Axes: English and Korean."""
    x = Axis.over(_extent([(spot.x, spot.x_interval) for spot in spots], (floor, 1.0)), LEFT, WIDTH - RIGHT)
    y = Axis.over(_extent([(spot.y, spot.y_interval) for spot in spots], (0.0, 1.0)), height - BOTTOM - 14, TOP)
    edge = x.at(floor)
    children = [
        _rectangle(edge, TOP, WIDTH - RIGHT - edge, y.start - TOP, "good-zone"),
        *_grid(x, y, x_whole=False),
        _line(edge, TOP, edge, y.start, "floor"),
        *_said(edge - 6, (TOP + y.start) / 2 + 24, (f"floor {floor:g}", f"기준 {floor:g}"), "tick", "end"),
        *_said((LEFT + WIDTH - RIGHT) / 2, height - 6, x_name, "axis", "middle"),
        *_said(4, TOP - 6, y_name, "axis", "start"),
        *(mark for spot in spots for mark in _spot(spot, x, y)),
        *_spot_labels(spots, x, y),
    ]
    return _picture(children, label, height)


def _picture(children: Sequence[Html], label: str, height: float) -> Html:
    return element("svg", children, viewBox=f"0 0 {_n(WIDTH)} {_n(height)}", role="img", aria_label=label)


def _grid(x: Axis, y: Axis, x_whole: bool) -> list[Html]:
    found = []
    for tick in y.ticks():
        height = y.at(tick)
        found += [
            _line(x.start, height, x.end, height, "gridline"),
            _label(x.start - 6, height + 4, _tick(tick), "tick", "end"),
        ]
    for tick in x.ticks(whole=x_whole):
        found.append(_label(x.at(tick), y.start + 16, _tick(tick), "tick", "middle"))
    return [*found, _line(x.start, y.start, x.end, y.start, "axis-line")]


def _bands(bands: Sequence[Band], x: Axis) -> list[Html]:
    found = []
    for number, band in enumerate(bands):
        left, right = x.at(band.start), x.at(band.end)
        if number % 2:
            found.append(_rectangle(left, TOP, right - left, HEIGHT - TOP - BOTTOM, "band"))
        if number:
            found.append(_line(left, TOP, left, HEIGHT - BOTTOM, "boundary"))
        if right - left >= _CHAR_WIDTH * (len(band.name) + 1):
            found.append(_label((left + right) / 2, TOP - 6, band.name, "tick", "middle"))
    return found


def _path(curve: Curve, x: Axis, y: Axis) -> Html:
    commands, pen_down, alone = [], False, []
    points = [(px, py if py is not None and math.isfinite(py) else None) for px, py in curve.points]
    for index, (px, py) in enumerate(points):
        if py is None:
            pen_down = False
            continue
        commands.append(f"{'L' if pen_down else 'M'}{_n(x.at(px))} {_n(y.at(py))}")
        followed = index + 1 < len(points) and points[index + 1][1] is not None
        if not pen_down and not followed:
            alone.append(_circle(x.at(px), y.at(py), 2.5, f"dot {curve.style}"))
        pen_down = True
    return element(
        "g", element("path", d="".join(commands), class_=f"curve {curve.style}") if commands else None, alone
    )


def _spot(spot: Spot, x: Axis, y: Axis) -> list[Html]:
    across, up = x.at(spot.x), y.at(spot.y)
    marks = []
    style = f"whisker {spot.style}"
    if spot.x_interval:
        low, high = map(x.at, spot.x_interval)
        marks += [_line(low, up, high, up, style), *(_line(end, up - 4, end, up + 4, style) for end in (low, high))]
    if spot.y_interval:
        low, high = map(y.at, spot.y_interval)
        marks.append(_line(across, low, across, high, style))
        marks += [_line(across - 4, end, across + 4, end, style) for end in (low, high)]
    title = element("title", f"{spot.name}: {spot.x:.3f}, {spot.y:.3f}")
    shape = "spot hollow" if spot.hollow else "spot"
    return [*marks, _circle(across, up, 5, f"{shape} {spot.style}", title)]


def _spot_labels(spots: Sequence[Spot], x: Axis, y: Axis) -> list[Html]:
    """A name beside every spot, on the side with more room, moved up or down where it would cover another."""
    taken: list[tuple[float, float, float]] = []
    found = []
    for spot in sorted(spots, key=lambda one: -y.at(one.y)):
        across, width = x.at(spot.x), _CHAR_WIDTH * len(_shortened(spot.name))
        leftward = across > WIDTH / 2
        left = across - 9 - width if leftward else across + 9
        height = _free_height(y.at(spot.y) - 9, left, left + width, taken, y)
        taken.append((left, left + width, height))
        place = across - 9 if leftward else across + 9
        found.append(_label(place, height, _shortened(spot.name), f"name {spot.style}", "end" if leftward else "start"))
    return found


def _free_height(
    wanted: float, left: float, right: float, taken: Sequence[tuple[float, float, float]], y: Axis
) -> float:
    """The height nearest to the wanted one at which a label covers no other; the wanted one when all are taken."""
    others = [height for start, end, height in taken if left < end and start < right]
    for number in range(4 * len(others) + 2):
        height = wanted + _LABEL_HEIGHT * ((number + 1) // 2) * (-1 if number % 2 else 1)
        inside = y.end - 8 <= height <= y.start
        if (inside or not number) and all(abs(height - other) >= _LABEL_HEIGHT for other in others):
            return height
    return wanted


def _extent(pairs: Iterable[tuple[float, tuple[float, float] | None]], always: tuple[float, ...]) -> list[float]:
    return [*always, *(value for point, interval in pairs for value in (point, *(interval or ())))]


def _ends(bands: Iterable[Band]) -> list[float]:
    return [end for band in bands for end in (band.start, band.end)]


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> Html:
    return element("line", x1=_n(x1), y1=_n(y1), x2=_n(x2), y2=_n(y2), class_=style)


def _rectangle(x: float, y: float, width: float, height: float, style: str) -> Html:
    return element("rect", x=_n(x), y=_n(y), width=_n(max(width, 0.0)), height=_n(max(height, 0.0)), class_=style)


def _circle(x: float, y: float, radius: float, style: str, *children: Html) -> Html:
    return element("circle", *children, cx=_n(x), cy=_n(y), r=_n(radius), class_=style)


def _label(x: float, y: float, text: str, style: str, anchor: str) -> Html:
    return element("text", text, x=_n(x), y=_n(y), class_=style, text_anchor=anchor)


def _said(x: float, y: float, texts: tuple[str, str], style: str, anchor: str) -> list[Html]:
    """One label in each language, of which the page shows one."""
    return [_label(x, y, text, f"{style} {code}", anchor) for code, text in zip(("en", "ko"), texts, strict=True)]


def _shortened(name: str, limit: int = 24) -> str:
    return name if len(name) <= limit else f"{name[: limit - 1]}…"


def _tick(value: float) -> str:
    return f"{0.0 if abs(value) < 1e-14 else value:.6g}"


def _clamped(value: float) -> float:
    return min(max(value, -_LARGEST), _LARGEST)


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
