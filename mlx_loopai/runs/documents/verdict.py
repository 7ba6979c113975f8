"""The verdict document of a guarded run: what it learnt, what it kept, and whether the result is good enough to use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mlx_loopai.runs.directory import RunDirectory
from mlx_loopai.runs.documents.document import Figure, Interval, Part
from mlx_loopai.runs.documents.summary import Summary

Verdict = Literal["pass", "fail", "unclear", "too little data"]


@dataclass(frozen=True, kw_only=True)
class Sample(Part):
    """The same prompt answered by the base and by the result of the run. json_taught: see `comparison.Example`."""

    prompt: str
    base: str
    tuned: str
    json_taught: bool = False


@dataclass(frozen=True, kw_only=True)
class JudgedSummary(Summary):
    """A run's summary and what was measured at its end.

    retention, retention_min, retention_interval: over a few questions of each kind, 1 for the base; None where the base
    answers none of them well enough. worst_kind: the kind of retention_min; worst_chance: the probability that a
    harmless change turns as many of its answers to the worse. noise_floor, noise_floor_min: retention and retention_min
    of the base with its weights rounded to 8 bits; a smaller loss than that cannot be told from no loss.
    switched_retention, switched_retention_min: with the adapter switch; switch_accuracy: share of held-out prompts that
    it decides correctly. gain: nats per token learnt on held-out rows, with its interval (not the share of plain's gain
    of other documents, since no plain run was made). reasons: why the verdict is not a pass.
    """

    retention: Figure = None
    retention_min: Figure = None
    retention_interval: Interval = None
    worst_kind: str = ""
    worst_chance: Figure = None
    noise_floor: Figure = None
    noise_floor_min: Figure = None
    switched_retention: Figure = None
    switched_retention_min: Figure = None
    switch_accuracy: Figure = None
    gain: Figure = None
    gain_interval: Interval = None
    verdict: Verdict
    reasons: tuple[str, ...] = ()
    samples: tuple[Sample, ...] = ()
    minutes: Figure = None
    report: str | None = None

    @staticmethod
    def of_run(run: Path) -> JudgedSummary | None:
        """What the folder `run` holds; None where it is no run's, or the run was not judged. Raises: as `read`."""
        place = RunDirectory(run).verdict
        return JudgedSummary.read(place) if place.is_file() else None
