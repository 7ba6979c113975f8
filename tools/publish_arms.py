"""Writes a table of arms into docs/experiments.md, and its picture, from a committed comparison.

    python -m tools.publish_arms NAME [OUT/compare.json]

With a file it is first taken to docs/results/NAME.json, without its curves, answers and settings. The table stands
between the markers of NAME; the picture is docs/NAME.svg.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlx_loopai.experiments.comparison import POSTHOC
from mlx_loopai.report.kit.figures import duration, fixed, with_interval
from mlx_loopai.runs.documents.comparison import BASE, PLAIN, ArmResult, Comparison
from tools.doc_markers import with_marked
from tools.publish_comparison import picture

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "experiments.md"
_LEFT_OUT: dict[str, Any] = {"curve": (), "examples": (), "settings": ""}
_COLUMNS = ("arm", "rate", "GR", "worst probe", "DG", "domain score", "right to wrong", "training", "step")


def result(name: str) -> Path:
    """Where the comparison NAME is committed."""
    return ROOT / "docs" / "results" / f"{name}.json"


def drawn(name: str) -> Path:
    """Where its picture is."""
    return ROOT / "docs" / f"{name}.svg"


def table(comparison: Comparison, name: str) -> str:
    """The comparison as a Markdown table, one row an arm, with its seeds, command and picture under it.

    The last columns are nats per token of general texts, where more than one kind was measured.
    """
    base, plain = comparison.arms[BASE], comparison.arms.get(PLAIN)
    texts = list(base.general_nll) if len(base.general_nll) > 1 else []
    columns = [*_COLUMNS, *(f"NLL {text}" for text in texts)]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for arm_name, arm in comparison.arms.items():
        cells = _cells(arm_name, arm, plain.step_s if plain else None)
        cells += [fixed(arm.general_nll[text]) for text in texts]
        lines.append("| " + " | ".join(cells) + " |")
    seeds = ", ".join(map(str, comparison.seeds))
    items = ", ".join(f"{task} {score.n}" for task, score in base.probes.items())
    said = f"`{comparison.command}`, seeds {seeds}, items a seed: {items}; {comparison.machine}."
    return "\n".join([*lines, "", said, "", f"![gain against retention]({drawn(name).name})"])


def with_table(text: str, comparison: Comparison, name: str) -> str:
    """`text` with the comparison's table. Raises: InputError without its markers."""
    return with_marked(text, f"{name} table", table(comparison, name), DOCUMENT)


def drawing(comparison: Comparison) -> str:
    """Gain against retention as a stand-alone SVG file, without the arms rescaled after training: they have no room."""
    trained = {name: arm for name, arm in comparison.arms.items() if not name.endswith(POSTHOC)}
    return picture(replace(comparison, arms=trained), height=200.0 + 20 * len(trained))


def read_result(path: Path) -> Comparison:
    """A comparison without the fields that no table needs."""
    read = Comparison.read(path)
    return replace(read, arms={name: replace(arm, **_LEFT_OUT) for name, arm in read.arms.items()})


def main(name: str, compared: str | None = None) -> None:
    """Take a comparison's file, if one is given, and write the table and the picture."""
    if compared:
        read_result(Path(compared)).write(result(name))
    comparison = read_result(result(name))
    DOCUMENT.write_text(with_table(DOCUMENT.read_text(encoding="utf-8"), comparison, name), encoding="utf-8")
    drawn(name).write_text(drawing(comparison), encoding="utf-8")


def _cells(name: str, arm: ArmResult, plain_step_s: float | None) -> list[str]:
    against_plain = f"{arm.step_s / plain_step_s:.2f} x" if arm.step_s and plain_step_s else "–"
    return [
        name,
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
