"""Writes the table of docs/experiments.md from the runs on judged answers in docs/results/preferences.json.

python -m tools.publish_preferences
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlx_loopai.files import write_whole
from tools.doc_markers import with_marked

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "experiments.md"
RESULTS = ROOT / "docs" / "results" / "preferences.json"
NAME = "preferences"
_COLUMNS = (
    "run",
    "pairs",
    "held out",
    "steps",
    "pair_accuracy",
    "margin",
    "chosen_logprob_change",
    "retention",
    "purity",
    "verdict",
)


def table(runs: Sequence[Mapping[str, Any]]) -> str:
    """A row for each run; what was not measured is a dash. The commands follow."""
    lines = [f"| {' | '.join(_COLUMNS)} |", "|---|" + "---:|" * (len(_COLUMNS) - 2) + "---|"]
    lines += [f"| {' | '.join(_cell(run.get(name)) for name in _COLUMNS)} |" for run in runs]
    return "\n".join([*lines, "", *(f"- {run['run']}: `{command}`" for run in runs for command in run["commands"])])


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def main() -> None:
    """Write the table."""
    runs = json.loads(RESULTS.read_text(encoding="utf-8"))
    write_whole(DOCUMENT, with_marked(DOCUMENT.read_text(encoding="utf-8"), NAME, table(runs), DOCUMENT))


if __name__ == "__main__":
    main()
