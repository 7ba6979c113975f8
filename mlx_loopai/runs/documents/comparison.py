"""The result document of `demo` and `compare`: one base, trained in several ways, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

from mlx_loopai.runs.documents.document import Count, Document, Figure, Part
from mlx_loopai.runs.documents.events import Step
from mlx_loopai.runs.documents.figures import Kept

BASE, PLAIN = "base", "plain"
DEMO_NAME, COMPARISON_NAME = "demo.json", "compare.json"
COMPARISON_NAMES = (DEMO_NAME, COMPARISON_NAME, "comparison.json")


@dataclass(frozen=True, kw_only=True)
class Example(Part):
    """An answer to read. `right`: the verdict where the prompt is a question of the suite, else None.

    json_taught: whether the rows that were trained on answer this prompt, or such prompts, in JSON.
    """

    prompt: str
    answer: str
    right: bool | None = None
    json_taught: bool = False


@dataclass(frozen=True, kw_only=True)
class RescalingFactors(Part):
    """How much of its update the first and the last block keep."""

    first: float
    last: float


@dataclass(frozen=True, kw_only=True)
class SeedResult(Part):
    """One run of an arm."""

    seed: int
    retention: Figure
    retention_min: Figure
    domain_score: Figure
    train_s: Figure = None
    rescaling: RescalingFactors | None = None


@dataclass(frozen=True, kw_only=True)
class TriedRate(Part):
    """One run of a sweep over learning rates."""

    arm: str
    learning_rate: float
    seed: int
    domain_score: Figure


@dataclass(frozen=True, kw_only=True)
class ArmResult(Kept):
    """One way of training, over all its seeds; or the base, for which figures of training are None.

    domain_score: minus nats per token of held-out domain rows. general_nll: nats per token of general texts. train_s:
    with all preparation. step_s, peak_bytes: of one step on the same fixed rows for every arm. examples, curve,
    settings: those of the first seed.
    """

    domain_score: Figure = None
    domain_perplexity: Figure = None
    general_nll: Mapping[str, Figure] = field(default_factory=dict)
    examples: tuple[Example, ...] = ()
    train_s: Figure = None
    step_s: Figure = None
    peak_bytes: Count = None
    steps: Count = None
    learning_rate: Figure = None
    seeds: tuple[SeedResult, ...] = ()
    curve: tuple[Step, ...] = ()
    settings: str = ""


@dataclass(frozen=True, kw_only=True)
class Comparison(Document):
    """Arms by name; the first is the base. `sweep`: the learning rates that were tried; `report`: the HTML page."""

    model: str = ""
    seed: Count = None
    arms: Annotated[Mapping[str, ArmResult], Field(min_length=1)]
    seeds: tuple[int, ...] = ()
    sweep: tuple[TriedRate, ...] = ()
    command: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: str = ""
    report: str | None = None

    @property
    def trained(self) -> dict[str, ArmResult]:
        """All arms except the base."""
        return {name: arm for name, arm in self.arms.items() if name != BASE}
