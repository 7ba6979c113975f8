"""Writes a table of every seed of a comparison into docs/experiments.md, with the means, from a committed comparison.

    python -m tools.publish_seeds NAME [OUT/compare.json ...]

With files their seeds are first taken to docs/results/NAME.json, without curves, answers and settings: one comparison
of several seeds, or several of one seed each, with the same arms. The table stands between the markers of NAME.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean

from mlx_loopai.errors import InputError
from mlx_loopai.runs.documents.comparison import BASE, PLAIN, Comparison, SeedResult
from tools.doc_markers import with_marked
from tools.publish_arms import DOCUMENT, read_result, result

_COLUMNS = ("arm", "seed", "GR", "worst probe", "DG", "domain score")


def table(comparison: Comparison) -> str:
    """One row a seed of every guarded arm, and one for their means; DG is against plain of the same seed."""
    base = comparison.arms[BASE].domain_score
    plain = {one.seed: one.domain_score for one in comparison.arms[PLAIN].seeds}
    lines = ["| " + " | ".join(_COLUMNS) + " |", "|" + "---|" * len(_COLUMNS)]
    for name, arm in comparison.trained.items():
        if name == PLAIN:
            continue
        rows = [_figures(one, base, plain[one.seed]) for one in arm.seeds]
        lines += [_line(name, str(one.seed), found) for one, found in zip(arm.seeds, rows, strict=True)]
        lines.append(_line(name, "mean", [mean(column) for column in zip(*rows, strict=True)]))
    items = ", ".join(f"{task} {score.n}" for task, score in comparison.arms[BASE].probes.items())
    return "\n".join([*lines, "", f"`{comparison.command}`; items: {items}; {comparison.machine}."])


def _figures(one: SeedResult, base: float | None, plain: float | None) -> list[float]:
    """Retention, that of the worst probe, gain and domain score. Raises: InputError where one was not measured."""
    found = (one.retention, one.retention_min, one.domain_score, base, plain)
    if any(figure is None for figure in found):
        raise InputError(f"seed {one.seed}: a figure is missing; compare the arms again")
    kept, worst, score, before, reference = (figure for figure in found if figure is not None)
    return [kept, worst, (score - before) / (reference - before), score]


def _line(name: str, seed: str, found: list[float]) -> str:
    return "| " + " | ".join([name, seed, *(f"{value:.3f}" for value in found)]) + " |"


def with_table(text: str, comparison: Comparison, name: str) -> str:
    """`text` with the comparison's table. Raises: InputError without its markers."""
    return with_marked(text, f"{name} table", table(comparison), DOCUMENT)


def joined(comparisons: Sequence[Comparison]) -> Comparison:
    """The first comparison, with the seeds of all in each of its arms."""
    first = comparisons[0]
    arms = {
        name: replace(arm, seeds=tuple(one for each in comparisons for one in each.arms[name].seeds))
        for name, arm in first.arms.items()
    }
    return replace(first, arms=arms, seeds=tuple(seed for each in comparisons for seed in each.seeds))


def main(name: str, *compared: str) -> None:
    """Take the seeds of some comparisons, if any are given, and write the table."""
    if compared:
        joined([read_result(Path(path)) for path in compared]).write(result(name))
    DOCUMENT.write_text(with_table(DOCUMENT.read_text(encoding="utf-8"), read_result(result(name)), name), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
