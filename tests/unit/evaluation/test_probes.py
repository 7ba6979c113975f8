from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest

from mlx_loopai.data.samples.skills import SKILLS
from mlx_loopai.evaluation import measure as measuring
from mlx_loopai.evaluation import probes as probing
from mlx_loopai.evaluation.measure import Measurement, comparable, report
from mlx_loopai.evaluation.probes import Probe, ProbeResult, judged, nano_probes, run_probe
from mlx_loopai.generation.engine import Generation, SamplingOptions


@cache
def probes() -> list[Probe]:
    return nano_probes()


def answered(right_share: float, wrong: str = "모르겠어요.") -> tuple[ProbeResult, ...]:
    """What a model says that knows the first `right_share` of every probe."""
    results = []
    for probe in probes():
        known = round(right_share * len(probe.items))
        texts = [item.answer if place < known else wrong for place, item in enumerate(probe.items)]
        results.append(judged(probe, texts, [True] * len(texts)))
    return tuple(results)


def test_five_probes_of_two_hundred_items_and_more() -> None:
    assert tuple(probe.name for probe in probes()) == SKILLS
    for probe in probes():
        assert 200 <= len(probe.items) <= 240
        assert len({item.prompt for item in probe.items}) == len(probe.items)
        assert 0 < probe.chance < 0.2


def test_probes_are_the_same_every_time() -> None:
    assert nano_probes() == probes()
    sample = probes()[0].sample(10)
    assert sample == probes()[0].sample(10)
    assert (len(sample.items), sample.chance) == (10, probes()[0].chance)
    assert probes()[0].sample(10_000) == probes()[0]


def test_run_probe_is_greedy_batched_and_keeps_the_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = probes()[3].sample(3)
    seen: dict[str, Any] = {}

    def generate_batch(
        loaded: object, prompts: Sequence[list[int]], options: SamplingOptions, on_progress: Callable[[int], None]
    ) -> list[Generation]:
        seen.update(prompts=list(prompts), options=options)
        on_progress(3)
        texts = [probe.items[0].answer, '{"text": ["1"]}', probe.items[2].answer]
        return [Generation(text, (1,), index < 2, 4) for index, text in enumerate(texts)]

    encoder = SimpleNamespace(prompt_ids=lambda messages: [len(messages[0].content)])
    monkeypatch.setattr(probing, "generate_batch", generate_batch)
    progress: list[int] = []
    result = run_probe(None, probe, encoder, max_tokens=9, on_progress=progress.append)  # type: ignore[arg-type]
    assert seen["prompts"] == [[len(item.prompt)] for item in probe.items]
    assert (seen["options"].temperature, seen["options"].max_tokens) == (0, 9)
    assert (result.right, result.broken) == ((True, False, False), (None, "json", "unfinished"))
    assert result.answers[1] == '{"text": ["1"]}'
    assert (result.n, result.score, result.finished) == (3, pytest.approx(1 / 3), (True, True, False))
    assert progress == [3]


def test_report_of_a_model_that_forgot_half() -> None:
    base, tuned = Measurement(answered(0.9), 2.0), Measurement(answered(0.45, '{"text": ["안녕"]}'), 3.0)
    found = report("nano", "RUN/adapter", probes(), base, tuned)
    assert 0.4 < found["retention_min"] <= found["retention"] < 0.5
    assert found["retention_interval"][0] < found["retention"] < found["retention_interval"][1]
    assert found["perplexity"] == pytest.approx(20.0855, rel=1e-4)
    facts = found["probes"]["facts_ko"]
    assert (facts["n"], facts["counted"], facts["wrong_to_right"]) == (222, True, 0)
    assert facts["right_to_wrong"] == round((facts["base"] - facts["score"]) * 222)
    assert facts["lost"][0]["broken"] == "json"
    assert len(facts["lost"]) == 5
    assert set(found["tuned"]["broken"]["facts_ko"]) == {"json"}
    assert found["base"]["purity"] == 1.0
    assert found["purity"] < 1.0


def test_report_of_a_base_has_no_retention() -> None:
    found = report("nano", None, probes(), Measurement(answered(0.9), 2.0), None)
    assert (found["retention"], found["retention_min"], found["tuned"], found["adapter"]) == (None,) * 4
    assert found["probes"]["sums"]["score"] == found["probes"]["sums"]["base"]


def test_probes_near_chance_are_not_counted() -> None:
    good, bad = answered(0.9), answered(0.1)
    base = Measurement((good[0], *bad[1:]), 2.0)
    assert comparable(base.results) == ["facts_ko"]
    found = report("other", "A", probes(), base, base)
    assert (found["retention"], found["probes"]["code"]["counted"]) == (1.0, False)
    with pytest.raises(measuring.InputError, match="made for the nano model"):
        comparable(bad)
