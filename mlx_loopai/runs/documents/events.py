"""Reads optimizer steps and readings from the lines of a run's events.jsonl."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ConfigDict

from mlx_loopai.runs.documents.document import Count, Document, Figure, finite

Reading = tuple[int, float | None]


@dataclass(frozen=True, kw_only=True)
class Step(Document):
    """One optimizer step; loss in nats per token, None where it was not finite. reward: the mean of the answers that
    the model drew for it, from 0 to 1; None where it drew none.

    Unknown keys are ignored: a line of the log may hold more than is read here.
    """

    __pydantic_config__ = ConfigDict(extra="ignore")

    step: int
    phase: str = ""
    loss: Figure = None
    penalty: Figure = None
    learning_rate: Figure = None
    gradient_norm: Figure = None
    divergence: Figure = None
    reward: Figure = None
    answer_tokens: Figure = None
    supervised_tokens: Count = None
    skipped: bool = False
    time: Figure = None


def steps_of(events: Sequence[Mapping[str, Any]], place: str) -> tuple[Step, ...]:
    """The optimizer steps among `events`, in order; of a step that was repeated after a crash the last one counts.

    Raises: InputError naming `place` for a step that cannot be read.
    """
    steps = [Step.from_json(event, place) for event in events if event.get("event") == "step"]
    found = {one.step: one for one in steps}
    return tuple(found[number] for number in sorted(found))


def readings_of(events: Sequence[Mapping[str, Any]], kind: str, name: str) -> tuple[Reading, ...]:
    """(step, value) of every event of a kind, in order; of a repeated step the last counts."""
    found = {event["step"]: finite(event.get(name)) for event in events if event.get("event") == kind}
    return tuple(sorted(found.items()))
