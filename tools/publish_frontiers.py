"""Writes the table of frontiers of docs/experiments.md from what `adapters frontier --json` said.

    python -m tools.publish_frontiers [NAME=FRONTIER.json:PLAIN_RUN ...]

With files their points are first taken to docs/results/frontiers.json, by the names given. PLAIN_RUN is the run of the
same rows without guards: its gain is what 1 means in the column DG.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from mlx_loopai.runs.directory import RunDirectory
from tools.doc_markers import with_marked
from tools.publish_arms import DOCUMENT

RESULT = DOCUMENT.parent / "results" / "frontiers.json"
COLUMNS = ("run", "of its update", "KL (nats a token)", "gain (nats a token)", "DG", "GR", "worst kind")


def table(runs: dict[str, dict[str, Any]]) -> str:
    """One row a run and scale. `runs`: of each its `points`, and the `plain_gain` of the run without guards."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for name, run in runs.items():
        for point in run["points"]:
            low, high = point["retention_interval"]
            cells = [
                name,
                f"{point['scale']:g}",
                f"{point['divergence']:.4f}",
                f"{point['gain']:.3f}",
                f"{point['gain'] / run['plain_gain']:.3f}",
                f"{point['retention']:.3f} ({low:.3f} to {high:.3f})",
                f"{point['retention_min']:.3f}",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def gain_of(run: Path) -> float:
    """Nats a token by which a run's held-out rows became likelier."""
    summary = next(event for event in reversed(RunDirectory(run).read_events()) if event["event"] == "done")
    return float(summary["validation_first"] - summary["validation_last"])


def with_table(text: str, runs: dict[str, dict[str, Any]]) -> str:
    """`text` with the table of `runs`. Raises: InputError without its markers."""
    return with_marked(text, "frontiers table", table(runs), DOCUMENT)


def read_result() -> dict[str, dict[str, Any]]:
    """The committed points."""
    return json.loads(RESULT.read_text(encoding="utf-8"))


def _taken(named: str) -> tuple[str, dict[str, Any]]:
    name, files = named.split("=", 1)
    frontier, plain = files.split(":", 1)
    points = json.loads(Path(frontier).read_text(encoding="utf-8"))["points"]
    return name, {"plain_gain": gain_of(Path(plain)), "points": points}


def main(arguments: list[str]) -> None:
    """Take runs, if any are given, and write the table."""
    if arguments:
        RESULT.write_text(json.dumps(dict(map(_taken, arguments)), indent=1) + "\n", encoding="utf-8")
    DOCUMENT.write_text(with_table(DOCUMENT.read_text(encoding="utf-8"), read_result()), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
