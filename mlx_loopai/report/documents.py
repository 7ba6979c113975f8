"""What a report shows, as frozen values, read from the plain documents that commands write.

Missing figures are None: a report of half a run is still a report. A wrong shape is an InputError that names the place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlx_loopai.errors import InputError
from mlx_loopai.evaluation.gate import number

BASE = "base"
PLAIN = "plain"
TUNED = "fine-tuned"  # the arm of a report on one run
_LOST_PER_PROBE = 3
Interval = tuple[float, float]


@dataclass(frozen=True)
class ProbeScore:
    """One ability: accuracies in [0, 1] of the base and of the arm, over n items.

    `counted` is False when the base is too near chance for retention to mean anything.
    """

    name: str
    base: float | None
    score: float | None
    n: int | None
    chance: float | None
    right_to_wrong: int | None
    wrong_to_right: int | None
    counted: bool = True


@dataclass(frozen=True)
class Example:
    prompt: str
    answer: str
    right: bool | None


@dataclass(frozen=True)
class Step:
    """One optimizer step; loss in nats per token, None where it was not finite."""

    step: int
    phase: str
    loss: float | None
    penalty: float | None
    learning_rate: float | None
    gradient_norm: float | None
    skipped: bool


@dataclass(frozen=True)
class Arm:
    """What one model scores, and the run that made it. `figures` is the document itself, for the gate."""

    name: str
    figures: Mapping[str, Any]
    retention: float | None
    retention_min: float | None
    retention_interval: Interval | None
    gain: float | None
    gain_interval: Interval | None
    domain_score: float | None
    domain_perplexity: float | None
    probes: tuple[ProbeScore, ...]
    purity: float | None
    train_s: float | None
    step_s: float | None
    peak_bytes: float | None
    learning_rate: float | None
    examples: tuple[Example, ...]
    curve: tuple[Step, ...]
    settings: str

    @property
    def right_to_wrong(self) -> int | None:
        """Items over all probes that the base had right and this arm has wrong."""
        return _sum(probe.right_to_wrong for probe in self.probes)

    @property
    def wrong_to_right(self) -> int | None:
        return _sum(probe.wrong_to_right for probe in self.probes)

    @property
    def is_trained(self) -> bool:
        return self.name != BASE

    @property
    def worst_probe(self) -> ProbeScore | None:
        """The probe that kept least of what the base could do above chance."""
        kept = [
            ((probe.score - (probe.chance or 0.0)) / (probe.base - (probe.chance or 0.0)), index, probe)
            for index, probe in enumerate(self.probes)
            if probe.counted
            and probe.base is not None
            and probe.score is not None
            and probe.base > (probe.chance or 0.0)
        ]
        return min(kept)[2] if kept else None


@dataclass(frozen=True)
class Comparison:
    """Arms side by side; the first is usually the base."""

    model: str
    seed: int | None
    arms: tuple[Arm, ...]
    command: str
    versions: dict[str, str]
    machine: str

    def arm(self, name: str) -> Arm | None:
        return next((arm for arm in self.arms if arm.name == name), None)


@dataclass(frozen=True)
class Run:
    """A training run.

    `kept`: (step, value) of the monitor's readings, `validation` of the held-out loss; `summary`: of its `done` event,
    None while it has not ended; `lost`: the base and the run's model with some answers that the one had right and the
    other has wrong, empty when there are none.
    """

    name: str
    settings: str
    steps: tuple[Step, ...]
    kept: tuple[tuple[int, float | None], ...]
    validation: tuple[tuple[int, float | None], ...]
    summary: Mapping[str, Any] | None
    total_steps: int | None
    resumed_from: tuple[str, ...]
    evaluation: Arm | None
    lost: tuple[Arm, ...]
    versions: dict[str, str]
    command: str


def comparison_of(document: Any, place: str) -> Comparison:
    """The comparison that `document` (of demo, compare) holds. Raises: InputError naming `place`."""
    table = _table(document, place)
    arms = _table(table.get("arms"), f"{place}: arms")
    if not arms:
        known = ", ".join(map(str, table)) or "none"
        raise InputError(
            f"{place}: no arms to compare (keys: {known}); give the JSON of `demo` or `compare`, or a run's folder"
        )
    return Comparison(
        model=_text(table.get("model")),
        seed=_count(table.get("seed")),
        arms=tuple(arm_of(name, arm, f"{place}: arms.{name}") for name, arm in arms.items()),
        command=_text(table.get("command")),
        versions={name: _text(value) for name, value in _table(table.get("versions"), f"{place}: versions").items()},
        machine=_text(table.get("machine")),
    )


def arm_of(name: str, document: Any, place: str) -> Arm:
    """One arm of a comparison, or what `evaluate` found. Raises: InputError naming `place`."""
    table = _table(document, place)
    probes = _table(table.get("probes"), f"{place}.probes")
    examples = _rows(table.get("examples"), f"{place}.examples")
    return Arm(
        name=str(name),
        figures=table,
        retention=number(table.get("retention")),
        retention_min=number(table.get("retention_min")),
        retention_interval=_interval(table.get("retention_interval")),
        gain=number(table.get("gain")),
        gain_interval=_interval(table.get("gain_interval")),
        domain_score=number(table.get("domain_score")),
        domain_perplexity=number(table.get("domain_perplexity")),
        probes=tuple(_probe(key, _table(probe, f"{place}.probes.{key}")) for key, probe in probes.items()),
        purity=number(table.get("purity")),
        train_s=number(table.get("train_s")),
        step_s=number(table.get("step_s")),
        peak_bytes=number(table.get("peak_bytes")),
        learning_rate=number(table.get("learning_rate")),
        examples=tuple(_example(row) for row in examples),
        curve=steps_of(_rows(table.get("curve"), f"{place}.curve")),
        settings=_text(table.get("settings")),
    )


def run_of(
    name: str,
    events: Sequence[Mapping[str, Any]],
    settings: str = "",
    evaluation: Any = None,
    versions: Mapping[str, str] | None = None,
    command: str = "",
) -> Run:
    """A run from its events (of `RunDirectory.read_events`), resolved.yaml, and evaluation.json where there is one.

    versions: what stands beside those that the run's last start recorded.
    """
    starts = [index for index, event in enumerate(events) if event.get("event") == "start"]
    # A run that started over left the events of the abandoned try behind it.
    fresh = max((index for index in starts if not events[index].get("resumed_from")), default=0)
    events = events[fresh:]
    done = next((event for event in events if event.get("event") == "done"), None)
    begun = [event for event in events if event.get("event") == "start"]
    totals = [_count(event.get("total_steps")) for event in begun]
    made_with = _table(begun[-1].get("versions") if begun else None, "events.jsonl: versions")
    evaluated = None if evaluation is None else arm_of(TUNED, evaluation, "evaluation.json")
    return Run(
        name=name,
        settings=settings,
        steps=steps_of(events),
        kept=_readings(events, "monitor", "kept"),
        validation=_readings(events, "validation", "nll_per_token"),
        summary=done,
        total_steps=totals[-1] if totals else None,
        resumed_from=tuple(
            _text(event["resumed_from"]) for event in events if event.get("resumed_from") and event is not done
        ),
        evaluation=evaluated,
        lost=() if evaluated is None else _lost(evaluated),
        versions=dict(versions or {}) | {name: _text(value) for name, value in made_with.items()},
        command=command,
    )


def steps_of(events: Sequence[Mapping[str, Any]]) -> tuple[Step, ...]:
    """The optimizer steps among `events`, in order; of a step repeated after a crash the last one counts."""
    found: dict[int, Step] = {}
    for event in events:
        step = _count(event.get("step"))
        if step is None or event.get("event", "step") != "step":
            continue
        found[step] = Step(
            step=step,
            phase=_text(event.get("phase")),
            loss=number(event.get("loss")),
            penalty=number(event.get("penalty")),
            learning_rate=number(event.get("learning_rate")),
            gradient_norm=number(event.get("gradient_norm")),
            skipped=event.get("skipped") is True,
        )
    return tuple(found[step] for step in sorted(found))


def _readings(events: Sequence[Mapping[str, Any]], kind: str, name: str) -> tuple[tuple[int, float | None], ...]:
    """(step, value) of every event of a kind, in order; of a repeated step the last counts."""
    found = {_count(event.get("step")): number(event.get(name)) for event in events if event.get("event") == kind}
    return tuple(sorted((step, value) for step, value in found.items() if step is not None))


def _lost(evaluated: Arm) -> tuple[Arm, ...]:
    """The answers that `evaluate` kept to look at, as the examples of two arms."""
    probes = _table(evaluated.figures.get("probes"), "evaluation.json.probes")
    rows = [
        row
        for name, probe in probes.items()
        for row in _rows(probe.get("lost"), f"evaluation.json.probes.{name}.lost")[:_LOST_PER_PROBE]
    ]
    if not rows:
        return ()
    before = tuple(Example(_text(row.get("prompt")), _text(row.get("base")), True) for row in rows)
    after = tuple(Example(_text(row.get("prompt")), _text(row.get("tuned")), False) for row in rows)
    return replace(evaluated, name=BASE, examples=before), replace(evaluated, examples=after)


def _probe(name: str, table: Mapping[str, Any]) -> ProbeScore:
    return ProbeScore(
        name=str(name),
        base=number(table.get("base")),
        score=number(table.get("score")),
        n=_count(table.get("n")),
        chance=number(table.get("chance")),
        right_to_wrong=_count(table.get("right_to_wrong")),
        wrong_to_right=_count(table.get("wrong_to_right")),
        counted=table.get("counted") is not False,
    )


def _example(table: Mapping[str, Any]) -> Example:
    right = table.get("right")
    return Example(_text(table.get("prompt")), _text(table.get("answer")), right if isinstance(right, bool) else None)


def _table(value: Any, place: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InputError(f"{place}: expected a table, got {type(value).__name__}; was this file written by mlx-loopai?")
    return value


def _rows(value: Any, place: str) -> list[Mapping[str, Any]]:
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        raise InputError(f"{place}: expected a list, got {type(value).__name__}; was this file written by mlx-loopai?")
    return [_table(row, f"{place}[{index}]") for index, row in enumerate(value)]


def _interval(value: Any) -> Interval | None:
    if not isinstance(value, list | tuple) or len(value) != 2:
        return None
    low, high = map(number, value)
    return None if low is None or high is None else (min(low, high), max(low, high))


def _count(value: Any) -> int | None:
    found = number(value)
    return None if found is None else int(found)


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _sum(counts: Any) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None
