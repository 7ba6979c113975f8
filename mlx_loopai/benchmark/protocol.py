"""Runs a race: sides take turns, each turn in a process of its own; computes medians with intervals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlx_loopai.benchmark.worker import Job
from mlx_loopai.errors import InputError, LoopaiError
from mlx_loopai.language import tr
from mlx_loopai.progress import Advance, ignore

RESAMPLES = 2000

RunJob = Callable[[Job], dict[str, Any]]


@dataclass(frozen=True)
class Figure:
    """A median over rounds with its 95 % bootstrap interval."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> Figure:
        """The figure of at least one value. Source: percentile bootstrap of the median (Efron 1979), seeded."""
        found = np.asarray(values, np.float64)
        picks = np.random.default_rng(0).integers(0, len(found), (RESAMPLES, len(found)))
        low, high = np.percentile(np.median(found[picks], axis=1), [2.5, 97.5])
        return Figure(float(np.median(found)), float(low), float(high))


def take_turns(
    backends: Sequence[str], rounds: int, run: Callable[[str, int], dict[str, Any]], on_progress: Advance = ignore
) -> dict[str, list[dict[str, Any]]]:
    """Each side's results, one per round. Every other round has the reverse order, so that a drift favours nobody.

    Raises: InputError for a side given twice, or without rounds.
    """
    if len(set(backends)) != len(backends) or not backends:
        raise InputError(tr("`backends` {backends}: name each side once", backends=",".join(backends)))
    if rounds < 1:
        raise InputError(tr("`rounds` {rounds}: give at least 1", rounds=rounds))
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in backends}
    for number in range(rounds):
        for name in backends if number % 2 == 0 else reversed(backends):
            on_progress(sum(map(len, found.values())), f"round {number + 1}, {name}")
            found[name].append(run(name, number))
    return found


def run_in_process(job: Job) -> dict[str, Any]:
    """A worker's result. Raises: LoopaiError, or InputError for wrong input, with the worker's own words."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("job.json", "result.json")]
        paths[0].write_text(json.dumps(asdict(job)), encoding="utf-8")
        command = [sys.executable, "-m", "mlx_loopai.benchmark.worker", *map(str, paths)]
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            said = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            raise LoopaiError(tr("{backend}: its process ended: {said}", backend=job.backend, said=said[:300]))
        result: dict[str, Any] = json.loads(paths[1].read_text(encoding="utf-8"))
    if "error" in result:
        raise (InputError if result["exit_status"] == InputError.exit_status else LoopaiError)(result["error"])
    return result


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> Figure | None:
    """The median of the rounds' ratios, in which a slow-down of a whole round cancels; None if `theirs` has a 0."""
    return Figure.of([a / b for a, b in zip(ours, theirs, strict=True)]) if all(theirs) else None
