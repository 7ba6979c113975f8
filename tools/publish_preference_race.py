"""Writes the tables of docs/benchmarks.md from what bench/preference_race.py measured, a table for each model.

python -m tools.publish_preference_race
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlx_loopai.files import write_whole
from mlx_loopai.units import format_bytes
from tools.doc_markers import with_marked

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "benchmarks.md"
RESULTS = ROOT / "bench" / "results" / "steps"
NAME = "preference race"
_RATES = {
    "pairs_per_s": "pairs/s by the clock",
    "pairs_per_cpu_s": "pairs a second of the processor",
    "pairs_per_cpu_s_one_epoch": "the same, with our pass over the base",
}


def table(result: Mapping[str, Any]) -> str:
    """A column for each side, the ratios, and the conditions."""
    sides, ratios = result["sides"], result["ratios"]
    lines = [f"| | {' | '.join(sides)} | mlx-loopai against it |", "|---|" + "---:|" * (len(sides) + 1)]
    for name, label in _RATES.items():
        cells = [f"{side[name]['median']:.4f}" for side in sides.values()]
        lines.append(f"| {label} | {' | '.join(cells)} | {_ratio(ratios[name])} times |")
    peaks = [format_bytes(side["peak_bytes"]) for side in sides.values()]
    lines.append(f"| peak above the weights | {' | '.join(peaks)} | {_ratio(ratios['peak_bytes'])} of it |")
    losses = [f"{side['loss_first']:.6f}" for side in sides.values()]
    lines.append(f"| first loss | {' | '.join(losses)} | {'equal' if result['equal'] else 'not equal'} |")
    machine, case = result["machine"], result["case"]
    versions = ", ".join(f"{name} {found}" for name, found in machine["versions"].items() if name in ("mlx", "mlx-lm"))
    where = (
        f"{machine['chip']}, {machine['cores']} cores, one thread; {versions}. {case['model']}, rows of"
        f" {case['tokens']} tokens, half of each a prompt, a pair a step, {case['steps']} steps after one not timed,"
        f" {result['rounds']} rounds; load {result['load'][0]:.0f} to {result['load'][1]:.0f}."
    )
    return "\n".join([*lines, "", where, "", f"`{result['command']}`"])


def _ratio(found: Mapping[str, float]) -> str:
    if found["low"] == found["high"]:
        return f"{found['median']:.2f}"
    return f"{found['median']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def tables(folder: Path) -> str:
    """The table of every race of `folder`."""
    files = sorted(folder.glob("preference-race-*.json"))
    return "\n\n".join(table(json.loads(file.read_text(encoding="utf-8"))) for file in files)


def main() -> None:
    """Write the tables."""
    document = DOCUMENT.read_text(encoding="utf-8")
    write_whole(DOCUMENT, with_marked(document, NAME, tables(RESULTS), DOCUMENT))


if __name__ == "__main__":
    main()
