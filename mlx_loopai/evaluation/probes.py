"""Probes of general ability: questions that the model answers freely, and how many of its answers are right."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from mlx_loopai.data.records import Message
from mlx_loopai.data.samples import skills
from mlx_loopai.data.samples.skills import Item
from mlx_loopai.data.tokens import ChatEncoder
from mlx_loopai.evaluation.judge import Verdict, constant_guess, judge
from mlx_loopai.generation.engine import SamplingOptions, generate_batch
from mlx_loopai.models.load import LoadedModel
from mlx_loopai.progress import Advance, ignore

__all__ = ["Probe", "ProbeResult", "Verdict", "judge", "judged", "nano_probes", "run_probe"]

MIN_ITEMS = 200
MAX_ITEMS = 240
MAX_ANSWER_TOKENS = 48
_SAMPLE_SEED = 20264


@dataclass(frozen=True)
class Probe:
    """One ability. `chance`: the accuracy of the best constant guess, in [0, 1]."""

    name: str
    items: tuple[Item, ...]
    chance: float

    def sample(self, count: int) -> Probe:
        """At most `count` of the items, seeded, in their order; the chance level stays that of the whole probe."""
        return Probe(self.name, _sampled(self.items, count), self.chance)


@dataclass(frozen=True)
class ProbeResult:
    """What a model answered to the n items of a probe, in the probe's order.

    `answers`: the texts; `finished`: the model ended them itself; `right`, `broken`: the verdicts (`judge.Verdict`).
    """

    name: str
    chance: float
    right: tuple[bool, ...]
    answers: tuple[str, ...]
    broken: tuple[str | None, ...]
    finished: tuple[bool, ...]

    @property
    def n(self) -> int:
        return len(self.right)

    @property
    def score(self) -> float:
        """The share of right answers, in [0, 1]."""
        return sum(self.right) / self.n


def nano_probes() -> list[Probe]:
    """One probe for each skill of the embedded model, 200 to 240 items each (a seeded sample where there are more).

    Made for the nano model: half of the facts are invented, and no other model can know them.
    """
    return [_nano_probe(skill) for skill in skills.SKILLS]


@cache
def _nano_probe(skill: str) -> Probe:
    items = _sampled(tuple(skills.items(skill, probe=True)), MAX_ITEMS)
    if len(items) < MIN_ITEMS:
        raise ValueError(f"probe {skill}: {len(items)} items, at least {MIN_ITEMS} are needed")
    return Probe(skill, items, constant_guess(items))


def run_probe(
    loaded: LoadedModel,
    probe: Probe,
    encoder: ChatEncoder,
    max_tokens: int = MAX_ANSWER_TOKENS,
    on_progress: Advance = ignore,
) -> ProbeResult:
    """The model's greedy answers to every item, judged; the script constraint is off, since it would hide damage.

    `on_progress` hears how many answers have ended.
    """
    prompts = [encoder.prompt_ids([Message("user", item.prompt)]) for item in probe.items]
    answers = generate_batch(loaded, prompts, SamplingOptions(temperature=0.0, max_tokens=max_tokens), on_progress)
    return judged(probe, [answer.text for answer in answers], [answer.finished for answer in answers])


def judged(probe: Probe, answers: Sequence[str], finished: Sequence[bool]) -> ProbeResult:
    """The result of a probe from the answers to its items, in their order. Raises: ValueError when one is missing."""
    verdicts = [judge(item, text, ended) for item, text, ended in zip(probe.items, answers, finished, strict=True)]
    return ProbeResult(
        probe.name,
        probe.chance,
        tuple(verdict.right for verdict in verdicts),
        tuple(answers),
        tuple(verdict.broken for verdict in verdicts),
        tuple(finished),
    )


def _sampled(items: tuple[Item, ...], count: int) -> tuple[Item, ...]:
    if len(items) <= count:
        return items
    chosen = sorted(random.Random(_SAMPLE_SEED).sample(range(len(items)), count))
    return tuple(items[index] for index in chosen)
