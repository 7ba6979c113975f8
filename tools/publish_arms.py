"""Writes a table of arms into docs/experiments.md, and its picture, from a committed comparison.

    python -m tools.publish_arms NAME [OUT/compare.json]

With a file it is first taken to docs/results/NAME.json, without its curves, answers and settings. The table stands
between the markers of NAME; the picture is docs/NAME.svg.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlx_loopai.experiments.comparison import POSTHOC
from mlx_loopai.report.documents import Arm, Comparison, comparison_of
from mlx_loopai.report.kit.figures import duration, fixed, with_interval
from tools.doc_markers import with_marked
from tools.publish_comparison import picture

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "experiments.md"
_LEFT_OUT = ("curve", "examples", "settings")
_COLUMNS = ("arm", "rate", "GR", "worst probe", "DG", "domain score", "right to wrong", "training", "step")


def result(name: str) -> Path:
    """Where the comparison NAME is committed."""
    return ROOT / "docs" / "results" / f"{name}.json"


def drawn(name: str) -> Path:
    """Where its picture is."""
    return ROOT / "docs" / f"{name}.svg"


def table(document: dict[str, Any], name: str) -> str:
    """The comparison as a Markdown table, one row an arm, with its seeds, command and picture under it.

    The last columns are nats per token of general texts, where more than one kind was measured.
    """
    comparison = _read(document)
    texts = list(comparison.arms[0].figures.get("general_nll") or {})
    texts = texts if len(texts) > 1 else []
    plain = comparison.arm("plain")
    columns = [*_COLUMNS, *(f"NLL {text}" for text in texts)]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for arm in comparison.arms:
        cells = _cells(arm, plain.step_s if plain else None) + [
            fixed(arm.figures["general_nll"][text]) for text in texts
        ]
        lines.append("| " + " | ".join(cells) + " |")
    seeds = ", ".join(map(str, document["seeds"]))
    items = ", ".join(f"{kind} {probe['n']}" for kind, probe in document["arms"]["base"]["probes"].items())
    said = f"`{comparison.command}`, seeds {seeds}, items a seed: {items}; {comparison.machine}."
    return "\n".join([*lines, "", said, "", f"![gain against retention]({drawn(name).name})"])


def with_table(text: str, document: dict[str, Any], name: str) -> str:
    """`text` with the comparison's table. Raises: InputError without its markers."""
    return with_marked(text, f"{name} table", table(document, name), DOCUMENT)


def drawing(document: dict[str, Any]) -> str:
    """Gain against retention of every arm as it was trained, as a stand-alone SVG file: twice as many have no room."""
    comparison = _read(document)
    trained = tuple(arm for arm in comparison.arms if not arm.name.endswith(POSTHOC))
    return picture(replace(comparison, arms=trained), height=200.0 + 20 * len(trained))


def read_result(path: Path) -> dict[str, Any]:
    """A comparison's document without what no table needs."""
    document = json.loads(path.read_text(encoding="utf-8"))
    arms = {
        name: {key: value for key, value in arm.items() if key not in _LEFT_OUT}
        for name, arm in document["arms"].items()
    }
    return document | {"arms": arms}


def main(name: str, compared: str | None = None) -> None:
    """Take a comparison's file, if one is given, and write the table and the picture."""
    if compared:
        result(name).write_text(json.dumps(read_result(Path(compared)), ensure_ascii=False) + "\n", encoding="utf-8")
    document = read_result(result(name))
    DOCUMENT.write_text(with_table(DOCUMENT.read_text(encoding="utf-8"), document, name), encoding="utf-8")
    drawn(name).write_text(drawing(document), encoding="utf-8")


def _read(document: dict[str, Any]) -> Comparison:
    return comparison_of(document, "the comparison")


def _cells(arm: Arm, plain_step_s: float | None) -> list[str]:
    against_plain = f"{arm.step_s / plain_step_s:.2f} x" if arm.step_s and plain_step_s else "–"
    return [
        arm.name,
        f"{arm.learning_rate:g}" if arm.learning_rate else "–",
        with_interval(arm.retention, arm.retention_interval),
        fixed(arm.retention_min),
        with_interval(arm.gain, arm.gain_interval),
        fixed(arm.domain_score),
        "–" if arm.right_to_wrong is None else str(arm.right_to_wrong),
        duration(arm.train_s),
        against_plain,
    ]


if __name__ == "__main__":
    main(*sys.argv[1:])
