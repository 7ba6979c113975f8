"""Writes the table of rescalings of docs/experiments.md from what `adapters tune --json` said.

    python -m tools.publish_rescalings [NAME=TUNE.json ...]

With files their points are first taken to docs/results/rescalings.json, by the names given.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tools.doc_markers import with_marked
from tools.publish_arms import DOCUMENT

RESULT = DOCUMENT.parent / "results" / "rescalings.json"


def table(runs: dict[str, list[dict[str, Any]]]) -> str:
    """One row a rescaling, and of every run its gain (of the whole adapter's) and what it keeps."""
    columns = ["first block", "last block", *(f"{name}: {what}" for name in runs for what in ("gain", "kept"))]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for points in zip(*runs.values(), strict=True):
        scale = points[0]["rescaling"]
        cells = [f"{point[what]:.3f}" for point in points for what in ("gain", "retention")]
        lines.append("| " + " | ".join([f"{scale['first']:g}", f"{scale['last']:g}", *cells]) + " |")
    return "\n".join(lines)


def with_table(text: str, runs: dict[str, list[dict[str, Any]]]) -> str:
    """`text` with the table of `runs`. Raises: InputError without its markers."""
    return with_marked(text, "rescalings table", table(runs), DOCUMENT)


def read_result() -> dict[str, list[dict[str, Any]]]:
    """The committed points."""
    return json.loads(RESULT.read_text(encoding="utf-8"))


def main(arguments: list[str]) -> None:
    """Take runs, if any are given, and write the table."""
    if arguments:
        named = dict(argument.split("=", 1) for argument in arguments)
        runs = {name: json.loads(Path(file).read_text(encoding="utf-8"))["points"] for name, file in named.items()}
        RESULT.write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")
    DOCUMENT.write_text(with_table(DOCUMENT.read_text(encoding="utf-8"), read_result()), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
