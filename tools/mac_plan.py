"""Predicts peak and speed of published training runs on Macs, and fits the constants of `memory.published` to them.

    python tools/mac_plan.py POINTS.jsonl --json      the predicted peak and rate of each line
    python tools/mac_plan.py POINTS.jsonl --fit       fit mlx_loopai/memory/published.json, errors of sources left out

A line has the keys of a published run (docs/memory.md); `peak_gb` and `it_per_s` may be null. A prediction is null
where a line says too little.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from mlx_loopai.files import write_whole
from mlx_loopai.memory.published import CONSTANTS, PublishedConstants, peak_bytes, published, step_seconds
from mlx_loopai.memory.speed import chip_peak
from tools.mac_runs import PublishedRun, published_run

# Where the peaks or times of a line's possible readings differ by more than this factor, there is no prediction.
WIDEST = 1.5
# Where in a range of readings the prediction lies (logarithmically): above the middle, since predicting too little
# memory ends a run, and too much costs only a smaller batch.
UPPER = 0.7
_FIRST = PublishedConstants(
    process_bytes=6e8, lora=19.0, loss=8.0, fused_loss=2.8, block=6.0, kept=2.4, scores=8.7, utilisation=0.5,
    step_s=0.05, spread=1.5,
)  # fmt: skip
_PEAK_CONSTANTS = ("process_bytes", "lora", "loss", "fused_loss", "block", "kept", "scores")
_RATE_CONSTANTS = ("utilisation", "step_s")
# An error of the peak below what was measured weighs this many times one above.
_TOO_LOW = 3.0
# Strength of the penalty for leaving the starting values: few points should not move the constants far, and hardly at
# all those that follow from a step's graph. docs/memory.md says how these were counted.
_PULL = 0.02
_COUNTED = {"lora": 0.5, "loss": 2.0, "kept": 2.0, "scores": 2.0}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("points", type=Path)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of lines")
    parser.add_argument("--fit", action="store_true", help="fit the constants to these lines and write them")
    given = parser.parse_args(arguments)
    rows = [json.loads(line) for line in given.points.read_text(encoding="utf-8").splitlines() if line.strip()]
    document: Any = fit_and_judge(rows) if given.fit else [predicted(row, published()) for row in rows]
    if given.json or given.fit:
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
        return
    for number, found in enumerate(document, 1):
        sys.stdout.write(f"{number}: {json.dumps(found)}\n")


def predicted(row: dict[str, Any], constants: PublishedConstants) -> dict[str, Any]:
    """Peak (decimal GB, as mlx-lm prints it), steps and processed tokens a second; null: the line says too little."""
    run = published_run(row)
    peak = run and peak_of(run, constants)
    rate = run and rate_of(run, constants)
    tokens = run and run.usual and _between([float(reading.tokens) for reading in run.usual])
    return {
        "source": row.get("source"),
        "peak_gb": row.get("peak_gb"),
        "predicted_peak_gb": peak and round(peak / 1e9, 3),
        "it_per_s": row.get("it_per_s"),
        "predicted_it_per_s": rate and round(rate, 4),
        "predicted_tokens_per_s": rate and tokens and round(rate * tokens, 1),
    }


def peak_of(run: PublishedRun, constants: PublishedConstants) -> float | None:
    """Bytes; None when the readings of the line differ too much."""
    return _between([float(peak_bytes(reading, constants)) for reading in run.readings])


def rate_of(run: PublishedRun, constants: PublishedConstants) -> float | None:
    """Optimizer steps a second; None for an unknown chip, or when the readings of the line differ too much."""
    peak = teraflops(run.chip)
    if peak is None:
        return None
    seconds = _between([step_seconds(reading, peak, constants) for reading in run.usual])
    return seconds and 1 / seconds


def teraflops(chip: str | None) -> float | None:
    """The 16-bit peak of a chip named as people do ("M4 (10-core)", "M1 Max")."""
    peak = chip_peak(f"Apple {(chip or '').partition('(')[0].strip()}")
    return None if peak is None else peak.flops_s / 1e12


def _between(values: Sequence[float]) -> float | None:
    if not values or max(values) > WIDEST * min(values):
        return None
    return math.exp((1 - UPPER) * math.log(min(values)) + UPPER * math.log(max(values)))


def fit_and_judge(rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Fit to all lines and write the constants. Returns: with them, errors on sources that were left out of a fit."""
    runs = [run for run in map(published_run, rows) if run is not None]
    peaks = [run for run in runs if run.peak_bytes and peak_of(run, _FIRST) is not None]
    rates = [run for run in runs if run.steps_per_s and rate_of(run, _FIRST) is not None]
    left_out = [
        (run, fit_peak([other for other in peaks if other.source != source]))
        for source in sorted({run.source for run in peaks})
        for run in peaks
        if run.source == source
    ]
    errors: dict[str, list[float]] = {}
    for run, constants in left_out:
        peak = peak_of(run, constants)
        if peak is not None and run.peak_bytes:
            errors.setdefault(run.source, []).append(peak / run.peak_bytes - 1)
    every = [error for found in errors.values() for error in found]
    constants = fit_rate(rates, fit_peak(peaks))
    factors = [_log_error(rate_of(run, constants), run.steps_per_s) for run in rates]
    constants = replace(
        constants,
        spread=round(math.exp(2 * float(np.quantile(np.abs(factors), 0.8))), 3),
        runs=len(peaks),
        sources=len(errors),
        median_error=round(float(np.median(np.abs(every))), 4),
    )
    write_whole(CONSTANTS, json.dumps(asdict(constants), indent=2) + "\n")
    return {
        "constants": asdict(constants),
        "left_out": {source: [round(error, 3) for error in found] for source, found in errors.items()},
        "median_error": constants.median_error,
        "lowest": round(min(every), 3),
        "rates_within_1.5": round(float(np.mean(np.abs(factors) <= math.log(1.5))), 3),
        "rates": len(rates),
    }


def fit_peak(runs: Sequence[PublishedRun]) -> PublishedConstants:
    """The constants with the least weighted error of the logarithm of the peak (weights: `_shares`)."""
    share = _shares(runs)

    def cost(constants: PublishedConstants) -> float:
        total = 0.0
        for run in runs:
            error = _log_error(peak_of(run, constants), run.peak_bytes)
            total += share[run.source] * abs(error) * (_TOO_LOW if error < 0 else 1.0)
        return total + _distance(constants, _PEAK_CONSTANTS)

    # The peak is a maximum over several moments, so the cost has local minima: descend from several starts.
    starts = [replace(_FIRST, block=block, loss=loss) for block in (3.0, 5.0, 8.0) for loss in (7.0, 9.0)]
    return min((_descend(cost, start, _PEAK_CONSTANTS) for start in starts), key=cost)


def fit_rate(runs: Sequence[PublishedRun], constants: PublishedConstants) -> PublishedConstants:
    share = _shares(runs)

    def cost(tried: PublishedConstants) -> float:
        found = sum(share[run.source] * abs(_log_error(rate_of(run, tried), run.steps_per_s)) for run in runs)
        return found + _distance(tried, _RATE_CONSTANTS)

    return _descend(cost, constants, _RATE_CONSTANTS)


def _shares(runs: Sequence[PublishedRun]) -> dict[str, float]:
    """The weight of a run, by source: 1 / sqrt(n) for n runs, so that a source's total grows as sqrt(n)."""
    return {source: sum(run.source == source for run in runs) ** -0.5 for source in {run.source for run in runs}}


def _log_error(found: float | None, measured: float | None) -> float:
    # A line without a prediction counts as off by a factor of 2, so that a fit does not gain by predicting nothing.
    return math.log(found / measured) if found and measured else math.log(2.0)


def _distance(constants: PublishedConstants, names: Iterable[str]) -> float:
    """The penalty for constants that moved from their starting values, larger for those that are known well."""
    return sum(
        _COUNTED.get(name, _PULL) * math.log(getattr(constants, name) / getattr(_FIRST, name)) ** 2 for name in names
    )


def _descend(
    cost: Callable[[PublishedConstants], float], constants: PublishedConstants, names: Sequence[str]
) -> PublishedConstants:
    """Coordinate descent over the logarithms of the named constants, with steps that halve."""
    best, step = cost(constants), 0.4
    while step > 0.01:
        moved = False
        for name in names:
            for factor in (math.exp(step), math.exp(-step)):
                tried = replace(constants, **{name: getattr(constants, name) * factor})
                found = cost(tried)
                if found < best - 1e-9:
                    constants, best, moved = tried, found, True
        if not moved:
            step /= 2
    return constants


if __name__ == "__main__":
    main()
