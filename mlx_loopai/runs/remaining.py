"""Estimates how long a run will still take, all its stages included, for the terminal and the page that watches it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from mlx_loopai.units import Span

# The pace is that of this many last steps: enough to include readings and saves, few enough to follow a change.
_PACE_STEPS = 50
# A step this many times slower than usual holds the pause in which a stopped run waited to be resumed.
_PAUSE = 60
_NONE = Span(0.0, 0.0)


@dataclass
class Remaining:
    """Hears the events of one run in their order, from its log or as an `EventSink`, and estimates its remaining time.

    A run has three parts: preparation up to the first step, the steps, and what is measured after the last. The part
    that goes on is measured; those to come are as long as they were `expected` to be, before the run began. Once steps
    have shown how fast the machine is, the expectation of what follows them gets narrower.
    """

    _expected: tuple[Span, Span, Span] | None = None
    _spread: float = 1.0
    _began: float = 0.0
    _total: int | None = None
    _scored_s: float = 0.0
    _steps: dict[int, float] = field(default_factory=dict)
    _step: int = 0
    _ended: float | None = None
    _judged: bool = False
    _stage: tuple[float, int, int] | None = None

    def record(self, kind: str, values: Mapping[str, Any]) -> None:
        """An event that happens now."""
        self.hear(kind, values, time.time())

    def hear(self, kind: str, values: Mapping[str, Any], at: float) -> None:
        """The event `kind`, which happened at `at` in seconds since the epoch."""
        match kind:
            case "expected":
                before, steps, after = (Span(*values[name]) for name in ("before_s", "steps_s", "after_s"))
                self._expected, self._began = (before, steps, after), at
                self._spread = values.get("spread", 1.0)  # earlier versions did not record it
                self._steps, self._ended, self._judged = {}, None, False
            case "start":
                self._total, self._ended, self._judged = values.get("total_steps"), None, False
                if not values.get("resumed_from"):
                    self._steps, self._step = {}, 0
            case "foreseen":
                self._scored_s = values.get("scored_s") or 0.0
            case "step":
                self._step = values["step"]
                self._steps[self._step] = at
            case "done":
                self._ended = at
            case "verdict":
                self._judged = True
            case "stage":
                self._stage = (at, values["total"], 0)
            case "progress" if self._stage is not None:
                began, total, _ = self._stage
                self._stage = (began, total, values["done"])

    def left(self, now: float | None = None) -> Span | None:
        """Seconds until the run has ended, with its verdict if it gets one; None where nothing can be said yet."""
        now = time.time() if now is None else now
        before, steps, after = self._expected or (_NONE, _NONE, _NONE)
        if self._judged or (self._ended is not None and self._expected is None):
            return None
        if self._ended is not None:
            return self._shortened(self._narrowed(after), now - self._ended, now)
        scored = Span(self._scored_s, self._scored_s)
        if (pace := self._pace()) is not None and self._total is not None:
            to_do_s = (self._total - self._step) * pace
            return Span(to_do_s, to_do_s) + scored + self._narrowed(after)
        if self._expected is None:
            return None
        if self._total is None:
            return self._shortened(before, now - self._began, now) + steps + after
        return steps.times(1 - self._step / self._total) + scored + after

    def _shortened(self, part: Span, gone_s: float, now: float) -> Span:
        """What is left of `part`; at least what its present stage still needs at its own rate."""
        stage_s = 0.0
        if self._stage is not None:
            began, total, done = self._stage
            stage_s = (now - began) * (total - done) / done if done else 0.0
        return Span(max(part.low_s - gone_s, stage_s), max(part.high_s - gone_s, stage_s))

    def _pace(self) -> float | None:
        """Seconds a step: the mean, without pauses; None before the second step."""
        recent = list(self._steps.values())[-_PACE_STEPS:]
        return _mean_without_pauses(recent) if len(recent) > 1 else None

    def _narrowed(self, part: Span) -> Span:
        """What is expected of a `part` that follows the steps, now that these have a pace.

        Steps that take longer than expected stretch it: what the machine's other work did to them, it will do to what
        follows. An expected range holds a factor `_spread` for the machine's speed, and the rest for the amount of
        work. The speed is the same in all parts, so the pace bounds it from both sides.
        """
        pace = self._pace()
        if pace is None or self._total is None or self._expected is None:
            return part
        steps, whole_s = self._expected[1], pace * self._total
        if whole_s <= 0 or steps.low_s <= 0:
            return part
        late = max(whole_s / steps.high_s, min(1.0, whole_s / steps.low_s))
        # With the most and the least work that the steps may have been.
        at_least, at_most = self._spread * whole_s / steps.high_s, whole_s / (self._spread * steps.low_s)
        return Span(part.low_s * max(late, at_least), part.high_s * min(late, at_most))


def _mean_without_pauses(times: Sequence[float]) -> float:
    apart = [after - before for before, after in pairwise(times)]
    usual = statistics.median(apart)
    return statistics.fmean(one for one in apart if one < _PAUSE * max(usual, 1.0))
