"""Formats figures for a report; an unknown one is a dash."""

from __future__ import annotations

from mlx_loopai.runs.documents.document import Interval
from mlx_loopai.units import format_bytes, format_duration

UNKNOWN = "–"


def fixed(value: float | None, digits: int = 3) -> str:
    """`0.984`."""
    if value is None:
        return UNKNOWN
    return f"{value:.{digits}f}" if abs(value) < 1e6 else f"{value:.3g}"


def percent(value: float | None) -> str:
    """`98.4 %` of 0.984."""
    return UNKNOWN if value is None else f"{fixed(100 * value, 1)} %"


def interval(bounds: Interval, digits: int = 3) -> str:
    """`0.962 to 0.991`; empty when unknown or of no width, as where 1 holds by definition."""
    return (
        "" if bounds is None or bounds[0] == bounds[1] else f"{fixed(bounds[0], digits)} to {fixed(bounds[1], digits)}"
    )


def with_interval(value: float | None, bounds: Interval) -> str:
    """`0.984 (0.962 to 0.991)`."""
    between = interval(bounds)
    return f"{fixed(value)} ({between})" if between and value is not None else fixed(value)


def count(value: float | None) -> str:
    """`1,240`."""
    return UNKNOWN if value is None else f"{value:,.0f}"


def short(value: float | None) -> str:
    """Few digits, small values in scientific notation: a learning rate, a tick."""
    return UNKNOWN if value is None else f"{value:.4g}"


def rounded(value: float) -> str:
    """Three digits: `1.55`, `0.0003`."""
    return f"{value:.3g}"


def duration(value: float | None) -> str:
    """`1m15s`; below a second in milliseconds."""
    if value is None:
        return UNKNOWN
    return format_duration(value) if value >= 1 or value == 0 else f"{value * 1000:.1f} ms"


def size(value: float | None) -> str:
    """`1.2 GiB`."""
    return UNKNOWN if value is None else format_bytes(value)


def ratio(value: float | None, reference: float | None) -> str:
    """`1.04x` of the reference; empty when either is unknown."""
    return "" if value is None or not reference else f"{value / reference:.2f}x"
