"""The result document of a benchmark: several programs timed on the same weights and tokens, on one machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from mlx_loopai.errors import InputError
from mlx_loopai.language import tr
from mlx_loopai.runs.documents.document import Count, Document, Figure, Part, read_json

Between = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Ratio(Part):
    """One side's figure divided by another's, round by round."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Machine(Part):
    """The machine of a race; None where the system does not tell. threads: as set by the environment."""

    chip: str
    cores: Count = None
    ram_bytes: Count = None
    system: str = ""
    python: str = ""
    commit: str | None = None
    threads: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Side(Part):
    """One program. `peak_bytes` is above the weights; `memory` says how it was measured."""

    peak_bytes: int
    memory: str
    weights_bytes: int
    start_s: float
    loss_first: Figure = None
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TrainSide(Side):
    """One program's training.

    first_s: seconds of steps with a new shape, which compile; they are not in the rate. real_token_share: share of
    computed tokens that are not padding. flops_share: share of the machine's peak, where that is known.
    """

    supervised_tokens_per_s: float
    interval: Between
    tokens_per_s: float
    first_s: float
    steps: int
    real_token_share: float
    flops_share: Figure = None
    held_out_nll: Figure = None
    rounds: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, kw_only=True)
class BatchRate(Part):
    """One program's generation with one number of prompts at a time; `bandwidth_share`: of the machine's peak."""

    tokens_per_s: float
    interval: Between
    prefill_tokens_per_s: float
    first_token_s: float
    peak_bytes: int
    bandwidth_share: Figure = None


@dataclass(frozen=True, kw_only=True)
class GenerateSide(Side):
    """One program's generation, by the number of prompts at a time; `tokens_per_s` is that of the first number."""

    tokens_per_s: float
    batches: Mapping[str, BatchRate]

    @property
    def interval(self) -> Between:
        """The interval of `tokens_per_s`."""
        return next(iter(self.batches.values())).interval


@dataclass(frozen=True, kw_only=True)
class Race(Document):
    """A race, with a result for each program.

    ratios: "one/other" -> figure -> one side's divided by the other's. equal: whether all sides computed the same;
    differences: what differed. disturbances: reasons to take the figures with care.
    """

    RATE: ClassVar[str]

    kind: str
    case: Mapping[str, Any]
    rounds: int
    backends: Mapping[str, TrainSide] | Mapping[str, GenerateSide]
    ratios: Mapping[str, Mapping[str, Ratio | None]]
    equal: bool
    differences: tuple[str, ...] = ()
    command: str = ""
    machine: Machine | None = None
    conditions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    disturbances: tuple[str, ...] = ()

    def rate(self, side: str) -> float:
        """The figure that the race is about, in tokens a second."""
        return getattr(self.backends[side], self.RATE)


@dataclass(frozen=True, kw_only=True)
class TrainRace(Race):
    """A race of LoRA training."""

    RATE: ClassVar[str] = "supervised_tokens_per_s"

    kind: Literal["train"] = "train"
    backends: Mapping[str, TrainSide]


@dataclass(frozen=True, kw_only=True)
class GenerateRace(Race):
    """A race of greedy generation."""

    RATE: ClassVar[str] = "tokens_per_s"

    kind: Literal["generate"] = "generate"
    backends: Mapping[str, GenerateSide]


def read_race(path: Path) -> TrainRace | GenerateRace:
    """The race in the file `path`. Raises: InputError when there is none."""
    try:
        found = read_json(path)
    except FileNotFoundError:
        raise InputError(tr("{path}: no such file; mlx-loopai benchmark train writes one", path=path)) from None
    kind = found.get("kind") if isinstance(found, dict) else None
    if kind == "train":
        return TrainRace.from_json(found, str(path))
    if kind == "generate":
        return GenerateRace.from_json(found, str(path))
    raise InputError(tr("{path}: not a result of mlx-loopai benchmark train or generate", path=path))
