"""Writes the table of docs/benchmarks.md from what bench/gated_delta_step.py measured.

python -m tools.publish_gated_delta
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlx_loopai.units import format_bytes
from tools.doc_markers import with_marked

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "benchmarks.md"
RESULT = ROOT / "bench" / "results" / "steps" / "gated-delta-cpu.json"
NAME = "gated delta"


def table(result: Mapping[str, Any]) -> str:
    """The races, the peak bytes per token by length, and the conditions."""
    lines = [
        "| tokens | side | first loss | s a step | processor s a step | peak above the weights |",
        "|---:|---|---:|---:|---:|---:|",
    ]
    for race in result["races"]:
        for side in ("mlx-loopai", "mlx-lm"):
            found = race[side]
            lines.append(
                f"| {race['tokens']} | {side} | {found['loss_first']:.5f} | {found['step_s']:.2f} |"
                f" {found['processor_s']:.2f} | {format_bytes(int(found['peak_bytes']))} |"
            )
        lines.append(
            f"| {race['tokens']} | mlx-loopai against it | {race['loss_difference']:.0e} apart | {race['rate']:.1f} x |"
            f" {race['rate_of_processor']:.1f} x | {race['peak_share']:.3f} |"
        )
    peaks = result["peak_bytes_a_token"]
    lengths = list(next(iter(peaks.values())))
    lines += ["", f"| peak, kB a token | {' | '.join(lengths)} |", "|---|" + "---:|" * len(lengths)]
    lines += [
        f"| {kind} | {' | '.join(f'{found[length] / 1000:.0f}' for length in lengths)} |"
        for kind, found in peaks.items()
    ]
    machine = result["machine"]
    versions = ", ".join(f"{name} {machine['versions'][name]}" for name in ("mlx", "mlx-lm", "mkl"))
    disturbed = f" Disturbed: {'; '.join(result['disturbed'])}." if result["disturbed"] else ""
    where = f"{machine['chip']}, {machine['cores']} cores, one thread; {versions}."
    return "\n".join([*lines, "", f"{where}{disturbed}"])


def main() -> None:
    """Write the table."""
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    document = with_marked(DOCUMENT.read_text(encoding="utf-8"), NAME, table(result), DOCUMENT)
    DOCUMENT.write_text(document, encoding="utf-8")


if __name__ == "__main__":
    main()
