"""What `adapters fuse`, `adapters tune` and `adapters frontier` print for people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mlx_loopai.cli.figures import noise_line, table
from mlx_loopai.language import tr

if TYPE_CHECKING:
    from converters.fuse_folder import Fused
    from mlx_loopai.experiments.frontier import Frontier
    from mlx_loopai.experiments.tune import Tuned


def fuse_text(out: Path, done: Fused) -> str:
    """What was written, and the matrices that got more bits than was asked for."""
    least = min(survival.share for survival in done.survival.values())
    lines = [
        tr(
            "{out}: {count} matrices changed; of the update at least {least:.1%} is left in each",
            out=out,
            count=len(done.survival),
            least=least,
        )
    ]
    if done.widened:
        lines.append(
            tr(
                "{count} matrices got more bits, since less than 90 % of their update would be left:",
                count=len(done.widened),
            )
        )
    wide = {name: done.survival[name] for name in done.widened}
    lines += table([(f"  {name}", one.form, f"{one.share:.1%}") for name, one in wide.items()]) if wide else []
    return "\n".join([*lines, *(tr("note: {text}", text=note) for note in done.notes)])


def tune_text(out: Path, tuned: Tuned, floor: float) -> str:
    """The rescalings that were tried, and the one that was written."""
    rows = [(tr("first block"), tr("last block"), tr("gain"), tr("kept"), "")]
    for point in tuned.points:
        scale, mark = point.rescaling, tr("chosen") if point == tuned.chosen else ""
        rows.append((f"{scale.first:g}", f"{scale.last:g}", f"{point.gain:.3f}", f"{point.retention:.3f}", mark))
    lines = [line.rstrip() for line in table(rows)]
    if tuned.chosen.retention < floor:
        lines.append(tr("none keeps {floor:g}; the one that keeps most was taken", floor=floor))
    return "\n".join([*lines, tr("{out}: the rescaled adapter", out=out)])


def frontier_text(found: Frontier) -> str:
    """One line for each share of the update, and what rounding the base leaves."""
    rows = [(tr("scale"), "KL", tr("gain"), tr("kept"), tr("worst kind"))]
    rows += [
        (
            f"{one.scale:g}",
            f"{one.divergence:.4f}",
            f"{one.gain:.3f}",
            f"{one.retention:.3f}",
            f"{one.retention_min:.3f}",
        )
        for one in found.points
    ]
    return "\n".join([*table(rows), *noise_line(found.noise_floor, found.noise_floor_min)])
