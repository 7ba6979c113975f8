"""Follows a run's log while it grows, and sums up the run's present state for those who watch it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

from mlx_loopai.files import is_locked
from mlx_loopai.runs.directory import RunDirectory
from mlx_loopai.runs.remaining import Remaining
from mlx_loopai.units import Span

Event = dict[str, Any]
# A run whose log grows is alive. The lock is tried only after a silence of this many seconds, since trying it could for
# an instant be in the way of a process that takes it.
_SILENT_S = 10.0
# A run that is judged holds no lock, and may be silent while it scores rows.
_JUDGING_S = 600.0
_STEP_FIGURES = ("step", "loss", "learning_rate", "memory_bytes", "peak_bytes", "reward")


@dataclass
class LiveRun:
    """Follows the log of one run. `state` reads what is new; one reader at a time."""

    directory: RunDirectory
    _offset: int = 0
    _file: int = 0
    _events: list[Event] = field(default_factory=list)

    def state(self, after: int = 0) -> dict[str, Any]:
        """The present state as JSON values, with the steps after the step `after` only.

        left_s: seconds until the end of the whole run, [at least, at most]; None where they cannot be estimated yet.
        alive: whether a process is writing the run.
        """
        self._read()
        events = self._of_this_try()
        steps = {event["step"]: event for event in events if event.get("event") == "step"}
        foreseen = _last(events, "foreseen")
        step, total = max(steps, default=0), _last(events, "start").get("total_steps")
        left = self._left()
        return {
            "run": str(self.directory.path),
            "alive": self._alive(),
            "stage": _stage(events),
            "step": step,
            "total_steps": total,
            "left_s": None if left is None else [left.low_s, left.high_s],
            "plan_bytes": foreseen.get("plan_bytes"),
            "budget_bytes": foreseen.get("budget_bytes"),
            "steps": [[one.get(name) for name in _STEP_FIGURES] for number, one in steps.items() if number > after],
            "kept": _readings(events, "monitor", "kept"),
            "kept_floor": foreseen.get("kept_floor"),
            "validation": _readings(events, "validation", "nll_per_token"),
            "saves": [event["step"] for event in events if event.get("event") == "checkpoint"],
            "samples": [
                {"step": event["step"], "answers": event["answers"]}
                for event in events
                if event.get("event") == "samples"
            ],
            "notices": [event["text"] for event in events if event.get("event") == "notice"],
            "done": any(event.get("event") == "done" for event in events),
            "verdict": _last(events, "verdict").get("verdict"),
        }

    def _read(self) -> None:
        """Read what was appended since the last call; everything where the log was written anew."""
        try:
            with self.directory.events.open("rb") as stream:
                stream.seek(0, 2)
                size = stream.tell()
                file = self.directory.events.stat().st_ino
                if size < self._offset or file != self._file:
                    self._offset, self._file, self._events = 0, file, []
                stream.seek(self._offset)
                whole, _, _ = stream.read().rpartition(b"\n")
        except FileNotFoundError:
            return
        if not whole:
            return
        self._offset += len(whole) + 1
        for line in whole.split(b"\n"):
            try:
                event = json.loads(line)
            except ValueError:  # a crash cut the line short
                continue
            if isinstance(event, dict):
                self._events.append(event)

    def _of_this_try(self) -> list[Event]:
        """The events since the run last started over; earlier steps are no longer part of it."""
        fresh = [
            place
            for place, event in enumerate(self._events)
            if event.get("event") == "start" and not event.get("resumed_from")
        ]
        if not fresh or not any(event.get("event") == "step" for event in self._events[: fresh[-1]]):
            return self._events
        return self._events[fresh[-1] :]

    def _left(self) -> Span | None:
        clock = Remaining()
        for event in self._events:
            clock.hear(event.get("event", ""), event, event.get("time", 0.0))
        return clock.left()

    def _alive(self) -> bool:
        silent_s = time.time() - (self._events[-1].get("time", 0.0) if self._events else 0.0)
        return silent_s < _SILENT_S or is_locked(self.directory.path) or (self._is_judging() and silent_s < _JUDGING_S)

    def _is_judging(self) -> bool:
        kinds = {event.get("event") for event in self._events}
        return "done" in kinds and "verdict" not in kinds and bool(_last(self._events, "foreseen").get("judged"))


def _stage(events: list[Event]) -> Event | None:
    """The stage that the run is in, with how much of it is done; None before the first and after the end."""
    found: Event | None = None
    for event in events:
        kind = event.get("event")
        if kind == "stage":
            found = {"name": event["name"], "total": event["total"], "done": 0}
        elif kind == "progress" and found is not None:
            found["done"] = event["done"]
        elif kind == "verdict":
            found = None
    return found


def _last(events: list[Event], kind: str) -> Event:
    return next((event for event in reversed(events) if event.get("event") == kind), {})


def _readings(events: list[Event], kind: str, name: str) -> list[list[Any]]:
    return [[event["step"], event.get(name)] for event in events if event.get("event") == kind]
