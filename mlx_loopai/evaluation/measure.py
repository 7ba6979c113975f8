"""One measurement of a model: the probes, held-out perplexity and purity; and two of them compared."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mlx_loopai.data.records import Record
from mlx_loopai.data.tokens import ChatEncoder
from mlx_loopai.errors import InputError
from mlx_loopai.evaluation.forgetting import Retention, retention, usable
from mlx_loopai.evaluation.perplexity import nll
from mlx_loopai.evaluation.probes import MAX_ANSWER_TOKENS, Probe, ProbeResult, run_probe
from mlx_loopai.models.load import LoadedModel
from mlx_loopai.progress import Advance, ignore, part
from mlx_loopai.text.measures import purity

PURITY_PROBE = "chat"
_EXAMPLES = 5


@dataclass(frozen=True)
class Measurement:
    """`held_out_nll`: nats per token on hand-written text that pretraining never saw."""

    results: tuple[ProbeResult, ...]
    held_out_nll: float

    @property
    def perplexity(self) -> float:
        """e^NLL per token of the model's own vocabulary."""
        return math.exp(min(self.held_out_nll, 700.0))

    @property
    def purity(self) -> float:
        """Hangul letters / letters over all answers to the Korean chat prompts, in [0, 1]."""
        return purity(
            "\n".join(text for result in self.results if result.name == PURITY_PROBE for text in result.answers)
        )

    def summary(self) -> dict[str, Any]:
        """The measurement as a report holds it, without its answers."""
        return {
            "scores": {result.name: result.score for result in self.results},
            "broken": {result.name: _broken_counts(result) for result in self.results},
            "nll_per_token": self.held_out_nll,
            "perplexity": self.perplexity,
            "purity": self.purity,
        }


def measure(
    loaded: LoadedModel,
    encoder: ChatEncoder,
    probes: Sequence[Probe],
    held_out: Sequence[Record],
    max_tokens: int = MAX_ANSWER_TOKENS,
    on_progress: Advance = ignore,
) -> Measurement:
    """Run every probe and score the held-out records; `on_progress` hears how many answers have ended and the probe."""
    results: list[ProbeResult] = []
    for probe in probes:
        before = sum(result.n for result in results)

        results.append(run_probe(loaded, probe, encoder, max_tokens, part(on_progress, before, probe.name)))
    losses = nll(loaded.model, [encoder.encode(record) for record in held_out])
    return Measurement(tuple(results), losses.nll_per_token)


def comparable(base: Sequence[ProbeResult]) -> list[str]:
    """The probes that retention counts: where the base is well above chance. Raises: InputError when it is nowhere."""
    names = usable(base)
    if not names:
        scores = ", ".join(f"{result.name} {result.score:.2f} (chance {result.chance:.2f})" for result in base)
        raise InputError(
            f"retention: this base is on no probe well above chance ({scores}); the probes are made for the "
            "nano model, another base needs a suite of its own"
        )
    return names


def report(
    model: str, adapter: str | None, probes: Sequence[Probe], base: Measurement, tuned: Measurement | None
) -> dict[str, Any]:
    """The evaluation's JSON document; without `tuned` the retention is null. Raises: InputError as `comparable`."""
    kept = compare(base.results, tuned.results) if tuned is not None else None
    last = tuned or base
    return {
        "model": model,
        "adapter": adapter,
        "base": base.summary(),
        "tuned": tuned.summary() if tuned is not None else None,
        "retention": kept.mean if kept else None,
        "retention_min": kept.minimum if kept else None,
        "retention_interval": list(kept.interval) if kept else None,
        "right_to_wrong": kept.right_to_wrong if kept else None,
        "wrong_to_right": kept.wrong_to_right if kept else None,
        "probes": {
            probe.name: _probe_report(probe, before, after, kept)
            for probe, before, after in zip(probes, base.results, last.results, strict=True)
        },
        "perplexity": last.perplexity,
        "purity": last.purity,
    }


def compare(base: Sequence[ProbeResult], tuned: Sequence[ProbeResult]) -> Retention:
    """Retention over the probes that count for this base."""
    names = comparable(base)
    chosen = [[result for result in results if result.name in names] for results in (base, tuned)]
    return retention(chosen[0], chosen[1])


def _probe_report(probe: Probe, before: ProbeResult, after: ProbeResult, kept: Retention | None) -> dict[str, Any]:
    found: dict[str, Any] = {"base": before.score, "score": after.score, "n": before.n, "chance": before.chance}
    if kept is not None:
        counted = kept.per_probe.get(probe.name)
        found |= {"counted": counted is not None, **(asdict(counted) if counted else {})}
        found["lost"] = _lost(probe, before, after)
    return found


def _lost(probe: Probe, before: ProbeResult, after: ProbeResult) -> list[dict[str, Any]]:
    """The first answers that were right and are wrong now, to look at."""
    places = [place for place in range(before.n) if before.right[place] and not after.right[place]]
    return [
        {
            "prompt": probe.items[place].prompt,
            "base": before.answers[place],
            "tuned": after.answers[place],
            "broken": after.broken[place],
        }
        for place in places[:_EXAMPLES]
    ]


def _broken_counts(result: ProbeResult) -> dict[str, int]:
    return dict(Counter(reason for reason in result.broken if reason is not None))
