"""Writes the arms' table of docs/experiments.md and docs/arms.svg from a committed comparison.

    python -m mlx_loopai.report.arms [OUT/compare.json]

With a file it is first taken to docs/results/arms.json, without its curves, answers and settings.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from mlx_loopai.errors import InputError
from mlx_loopai.report.documents import Arm, Comparison, comparison_of
from mlx_loopai.report.figures import duration, fixed, interval
from mlx_loopai.report.publish import picture

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "docs" / "results" / "arms.json"
PICTURE = ROOT / "docs" / "arms.svg"
DOCUMENT = ROOT / "docs" / "experiments.md"
BEGIN, END = "<!-- arms table: begin -->", "<!-- arms table: end -->"
_LEFT_OUT = ("curve", "examples", "settings")
_COLUMNS = ("arm", "rate", "GR", "worst probe", "DG", "domain score", "right to wrong", "training", "step")


def table(document: dict[str, Any]) -> str:
    """The comparison as a Markdown table, one row an arm, with its seeds and command under it."""
    comparison = _read(document)
    ratio = {arm.name: arm.step_s for arm in comparison.arms}
    lines = ["| " + " | ".join(_COLUMNS) + " |", "|" + "---|" * len(_COLUMNS)]
    lines += ["| " + " | ".join(_cells(arm, ratio.get("plain"))) + " |" for arm in comparison.arms]
    seeds = ", ".join(map(str, document["seeds"]))
    items = ", ".join(f"{name} {probe['n']}" for name, probe in document["arms"]["base"]["probes"].items())
    said = f"`{comparison.command}`, seeds {seeds}, items a seed: {items}; {comparison.machine}."
    return "\n".join([*lines, "", said, "", f"![gain against retention]({PICTURE.name})"])


def with_table(text: str, document: dict[str, Any]) -> str:
    """`text` with the table between its markers replaced. Raises: InputError without markers."""
    return replaced(text, BEGIN, END, table(document))


def replaced(text: str, begin: str, end: str, between: str) -> str:
    """`text` with `between` in place of what stands between two markers. Raises: InputError without them."""
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise InputError(f"{DOCUMENT}: no table markers; keep the lines {begin} and {end}")
    return f"{before}{begin}\n{between}\n{end}{after}"


def drawing(document: dict[str, Any]) -> str:
    """Gain against retention of every arm, as a stand-alone SVG file."""
    return picture(_read(document))


def read_result(path: Path = RESULT) -> dict[str, Any]:
    """A comparison's document without what no table needs."""
    document = json.loads(path.read_text(encoding="utf-8"))
    arms = {
        name: {key: value for key, value in arm.items() if key not in _LEFT_OUT}
        for name, arm in document["arms"].items()
    }
    return document | {"arms": arms}


def main(arguments: list[str]) -> None:
    """Take a comparison's file, if one is given, and write the table and the picture."""
    if arguments:
        RESULT.write_text(json.dumps(read_result(Path(arguments[0])), ensure_ascii=False) + "\n", encoding="utf-8")
    document = read_result()
    DOCUMENT.write_text(with_table(DOCUMENT.read_text(encoding="utf-8"), document), encoding="utf-8")
    PICTURE.write_text(drawing(document), encoding="utf-8")


def _read(document: dict[str, Any]) -> Comparison:
    return comparison_of(document, str(RESULT))


def _cells(arm: Arm, plain_step_s: float | None) -> list[str]:
    against_plain = f"{arm.step_s / plain_step_s:.2f} x" if arm.step_s and plain_step_s else "–"
    return [
        arm.name,
        f"{arm.learning_rate:g}" if arm.learning_rate else "–",
        _between(arm.retention, arm.retention_interval),
        fixed(arm.retention_min),
        _between(arm.gain, arm.gain_interval),
        fixed(arm.domain_score),
        "–" if arm.right_to_wrong is None else str(arm.right_to_wrong),
        duration(arm.train_s),
        against_plain,
    ]


def _between(value: float | None, bounds: tuple[float, float] | None) -> str:
    between = interval(bounds)
    return f"{fixed(value)} ({between})" if between and value is not None else fixed(value)


if __name__ == "__main__":
    main(sys.argv[1:])
