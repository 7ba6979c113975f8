"""Tables of models and their figures, in the reader's language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlx_loopai.cli.output import columns, padded
from mlx_loopai.language import later, tr

# The figures of an arm (`runs.documents.comparison.ArmResult`), by the name of its field.
FIGURES: Mapping[str, str] = {
    "retention": later("retention (GR)"),
    "retention_min": later("worst kind"),
    "gain": later("gain (DG)"),
    "domain_score": later("domain score (nats/token)"),
    "purity": later("purity of Korean answers"),
    "learning_rate": later("learning rate"),
    "train_s": later("training (s)"),
    "step_s": later("step (s)"),
    "peak_bytes": later("peak of a step (bytes)"),
}
_GAP = 2


def figure(field: str) -> str:
    """What a table calls the figure in this field of an arm."""
    return tr(FIGURES[field])


def noise_line(retention: float | None, retention_min: float | None) -> list[str]:
    """The line that goes under figures of retention: what rounding leaves of the base itself; none if not measured."""
    if retention is None or retention_min is None:
        return []
    return [
        tr(
            "noise floor {retention:.3f}, worst {retention_min:.3f}: what rounding the base to 8 bits leaves",
            retention=retention,
            retention_min=retention_min,
        )
    ]


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of text: the first column flush left, the others flush right, each as wide as its longest cell."""
    widths = [max(map(columns, column)) for column in zip(*rows, strict=True)]
    return [
        padded(first, widths[0])
        + "".join(" " * _GAP + padded(cell, width, after=True) for cell, width in zip(rest, widths[1:], strict=True))
        for first, *rest in rows
    ]
