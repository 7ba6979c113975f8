"""Reads a run's folder: summary, steps, readings and settings, and the evaluation if there is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from mlx_loopai.config import ForgettingOptions
from mlx_loopai.errors import InputError
from mlx_loopai.evaluation.gate import Gate
from mlx_loopai.language import tr
from mlx_loopai.runs.directory import RunDirectory
from mlx_loopai.runs.documents.document import read_json, read_text
from mlx_loopai.runs.documents.evaluation import Evaluation
from mlx_loopai.runs.documents.events import Reading, Step, readings_of, steps_of
from mlx_loopai.runs.documents.summary import Summary
from mlx_loopai.runs.documents.verdict import JudgedSummary

_IDENTITY = {"version": "mlx-loopai", "base_hash": "base", "config_digest": "configuration"}


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One training run.

    kept: (step, value) of the monitor's readings; validation: of the held-out loss. summary: None while the run has not
    ended. versions: those of the programs, and the hashes of base and configuration.
    """

    name: str
    settings: str = ""
    steps: tuple[Step, ...] = ()
    kept: tuple[Reading, ...] = ()
    validation: tuple[Reading, ...] = ()
    summary: Summary | None = None
    total_steps: int | None = None
    resumed_from: tuple[str, ...] = ()
    evaluation: Evaluation | None = None
    judged: JudgedSummary | None = None
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def gate(self) -> Gate:
        """The gate with the floors that the run's own settings ask for. Raises: InputError."""
        return gate_of(self.settings, f"{self.name}: resolved.yaml")


def read_run(directory: RunDirectory) -> RunRecord:
    """The run of a folder, finished or not. Raises: InputError naming the file that cannot be read."""
    evaluation = directory.evaluation
    if directory.events.is_file():
        read_text(directory.events)  # says where a byte is not UTF-8
    return run_of(
        str(directory.path),
        [event for event in directory.read_events() if isinstance(event, dict)],
        settings=read_text(directory.resolved) if directory.resolved.is_file() else "",
        evaluation=Evaluation.read(evaluation) if evaluation.is_file() else None,
        judged=JudgedSummary.of_run(directory.path),
        identity=read_json(directory.identity) if directory.identity.is_file() else {},
    )


def run_of(
    name: str,
    events: Sequence[Mapping[str, Any]],
    settings: str = "",
    evaluation: Evaluation | None = None,
    judged: JudgedSummary | None = None,
    identity: Any = None,
) -> RunRecord:
    """A run from its events, resolved.yaml, evaluation.json and run.json. Raises: InputError for a broken event."""
    starts = [index for index, event in enumerate(events) if event.get("event") == "start"]
    # A run that started over has left the events of its abandoned try in the log.
    fresh = max((index for index in starts if not events[index].get("resumed_from")), default=0)
    events = events[fresh:]
    begun = [event for event in events if event.get("event") == "start"]
    last = begun[-1] if begun else {}
    done = next((event for event in events if event.get("event") == "done"), None)
    known = identity if isinstance(identity, Mapping) else {}
    return RunRecord(
        name=name,
        settings=settings,
        steps=steps_of(events, f"{name}: events.jsonl"),
        kept=readings_of(events, "monitor", "kept"),
        validation=readings_of(events, "validation", "nll_per_token"),
        summary=None if done is None else Summary.from_json(done, f"{name}: events.jsonl: done"),
        total_steps=last.get("total_steps"),
        resumed_from=tuple(str(event["resumed_from"]) for event in begun if event.get("resumed_from")),
        evaluation=evaluation,
        judged=judged,
        versions={shown: str(known[key]) for key, shown in _IDENTITY.items() if key in known} | _versions(last),
    )


def _versions(start: Mapping[str, Any]) -> dict[str, str]:
    found = start.get("versions") or {}
    if not isinstance(found, Mapping):
        raise InputError(tr("events.jsonl: versions: expected a table, got {found!r}", found=found))
    return {str(name): str(version) for name, version in found.items()}


def gate_of(settings: str, place: str) -> Gate:
    """The gate that a resolved.yaml asks for. Only its floors are read, so that a file of another version will do.

    Raises: InputError when the floors cannot be read.
    """
    try:
        asked = (yaml.safe_load(settings) or {}).get("forgetting") or {}
        known = {name: asked[name] for name in ("floor", "gain_floor") if name in asked}
        return Gate.of(ForgettingOptions.model_validate(known))
    except (yaml.YAMLError, ValueError, AttributeError, TypeError) as error:
        why = " ".join(str(error).split())[:200]
        raise InputError(
            tr("{place}: forgetting: the gate's floors cannot be read: {why}; mend the file", place=place, why=why)
        ) from None
