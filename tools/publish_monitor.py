"""Writes the monitor's table of docs/experiments.md from the events of runs that were monitored.

    python -m tools.publish_monitor [RUN ...]

With run folders their readings and times are first taken to docs/results/monitor.json, by the folders' names.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from mlx_loopai.runs.directory import RunDirectory
from tools.doc_markers import with_marked
from tools.publish_arms import DOCUMENT

RESULT = DOCUMENT.parent / "results" / "monitor.json"
_STEPS = (5, 10, 15, 20, 25, 30, 50, 75, 100)


def readings_of(events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """`steps`, `readings` [step, kept], and the median seconds of a step and of a reading, by the events' times."""
    spent: dict[str, list[float]] = {"step": [], "monitor": []}
    for before, event in pairwise(events):
        if before["event"] in spent and event["event"] in spent:
            spent[event["event"]].append(event["time"] - before["time"])
    return {
        "steps": sum(event["event"] == "step" for event in events),
        "readings": [[event["step"], round(event["kept"], 4)] for event in events if event["event"] == "monitor"],
        "step_s": round(median(spent["step"]), 4),
        "reading_s": round(median(spent["monitor"]), 4),
    }


def table(runs: dict[str, dict[str, Any]]) -> str:
    """One row a run: the likelihood kept at some steps, at the last one and at least, and what a reading costs."""
    columns = ["step", *map(str, _STEPS), "last", "least", "reading / step (s)"]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for name, run in runs.items():
        kept = dict(run["readings"])
        cells = [f"{kept[step]:.3f}" if step in kept else "–" for step in (*_STEPS, max(kept))]
        cells += [f"{min(kept.values()):.3f}", f"{run['reading_s']:.2f} / {run['step_s']:.2f}"]
        lines.append("| " + " | ".join([f"{name} ({run['steps']} steps)", *cells]) + " |")
    return "\n".join(lines)


def with_table(text: str, runs: dict[str, dict[str, Any]]) -> str:
    """`text` with the table of `runs`. Raises: InputError without its markers."""
    return with_marked(text, "monitor table", table(runs), DOCUMENT)


def read_result() -> dict[str, dict[str, Any]]:
    """The committed readings."""
    return json.loads(RESULT.read_text(encoding="utf-8"))


def main(arguments: list[str]) -> None:
    """Take runs, if any are given, and write the table."""
    if arguments:
        runs = {Path(name).name: readings_of(RunDirectory(Path(name)).read_events()) for name in arguments}
        RESULT.write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")
    DOCUMENT.write_text(with_table(DOCUMENT.read_text(encoding="utf-8"), read_result()), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
