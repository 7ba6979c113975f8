"""The evaluation document: two results compared, what was lost shown, and what is too near chance left out."""

from __future__ import annotations

import json
from functools import cache
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest

from mlx_loopai.data.records import Message
from mlx_loopai.errors import InputError
from mlx_loopai.evaluation.choices import Choice
from mlx_loopai.evaluation.questions import QUESTION_JUDGE, Question
from mlx_loopai.evaluation.retention import retention
from mlx_loopai.evaluation.suite_run import SuiteResult
from mlx_loopai.evaluation.suites import HELD_OUT, nano_tasks
from mlx_loopai.evaluation.tasks import Asked, Chosen
from mlx_loopai.experiments.evaluate import evaluation_of, switched
from mlx_loopai.runs.documents.evaluation import Evaluation


@cache
def answered(right_share: float, wrong: str = "모르겠어요.", nll: float = 2.0) -> SuiteResult:
    """What a model scores that knows the first `right_share` of every task."""
    results = []
    for task in nano_tasks():
        known = round(right_share * len(task.items))
        texts = [item.answer if place < known else wrong for place, item in enumerate(task.items)]
        results.append(task.judged([(text, True) for text in texts]))
    return SuiteResult(tuple(results), {HELD_OUT: nll})


def evaluation(base: SuiteResult, tuned: SuiteResult | None) -> Evaluation:
    kept = retention(base.tasks, tuned.tasks) if tuned and base.tasks else None
    return evaluation_of(base, tuned, kept, suite="nano", model="nano", adapter="A" if tuned else None)


def test_a_model_that_forgot_half() -> None:
    found = evaluation(answered(0.9), answered(0.45, '{"text": ["안녕"]}', 3.0))
    assert found.retention is not None
    assert found.retention_min is not None
    assert 0.4 < found.retention_min <= found.retention < 0.5
    assert found.retention_interval is not None
    assert found.retention_interval[0] < found.retention < found.retention_interval[1]
    assert found.perplexity == pytest.approx(20.0855, rel=1e-4)
    facts = found.probes["facts_ko"]
    assert (facts.n, facts.counted, facts.wrong_to_right) == (222, True, 0)
    assert facts.right_to_wrong == round((facts.base - facts.score) * 222)
    assert facts.lost[0].broken == "json"
    assert len(facts.lost) == 5
    assert found.tuned is not None
    assert set(found.tuned.broken["facts_ko"]) == {"json"}
    assert found.base.purity == 1.0
    assert found.purity is not None
    assert found.purity < 1.0
    assert Evaluation.from_json(json.loads(json.dumps(found.to_json())), "x") == found


def test_a_base_alone_has_no_retention() -> None:
    found = evaluation(answered(0.9), None)
    assert (found.retention, found.retention_min, found.tuned, found.adapter) == (None,) * 4
    assert found.probes["sums"].score == found.probes["sums"].base
    assert found.base.nll_per_token == 2.0


def test_tasks_near_chance_are_not_counted() -> None:
    good, bad = answered(0.9).tasks, answered(0.1).tasks
    base = SuiteResult((good[0], *bad[1:]), {})
    found = evaluation(base, base)
    assert (found.retention, found.probes["facts_ko"].counted, found.probes["code"].counted) == (1.0, True, False)
    assert found.probes["code"].capped is None
    with pytest.raises(InputError, match="made for the embedded model"):
        evaluation(answered(0.1), answered(0.1))


def test_a_suite_that_counts_nothing_shows_scores_alone() -> None:
    """A base that sees nothing, asked for pictures: its table had figures of retention that were not there."""
    found = evaluation_of(answered(0.1), answered(0.9), None, suite="nano", model="nano", adapter="A")
    assert found.retention is None
    assert not any(one.counted for one in found.probes.values())


def test_tasks_of_every_sort() -> None:
    asked = Asked.of("qa", [Question(f"q{n}", (f"value{n}",)) for n in range(4)], QUESTION_JUDGE)
    chosen = Chosen("mc", (Choice("q", ("x", "y"), 1),))

    def said(*texts: str, nll: float) -> SuiteResult:
        return SuiteResult((asked.judged([(text, True) for text in texts]), chosen.judged([1])), {"a": nll, "b": 1.0})

    base = said("value0", "value1", "value2", "no", nll=1.0)
    found = evaluation(base, said("value0", '{"text": ["value1"]}', "no", "value3", nll=2.0))
    # qa: chance 1/4, so (0.5 - 0.25) / (0.75 - 0.25); mc is kept whole.
    assert found.probes["qa"].capped == pytest.approx(0.5)
    assert found.retention == pytest.approx(0.75)
    assert (found.right_to_wrong, found.wrong_to_right) == (2, 1)
    assert [(lost.prompt, lost.base, lost.tuned) for lost in found.probes["qa"].lost] == [
        ("q1", "value1", '{"text": ["value1"]}'),
        ("q2", "value2", "no"),
    ]
    assert found.nll["a"].perplexity == pytest.approx(7.389, rel=1e-3)
    # No perplexity stands for a suite of two texts.
    assert (found.perplexity, found.base.nll_per_token, found.purity) == (None, None, None)


def test_a_suite_of_texts_alone_has_no_retention() -> None:
    found = evaluation(SuiteResult((), {"a": 1.0}), SuiteResult((), {"a": 2.0}))
    assert (found.retention, found.perplexity) == (None, pytest.approx(7.389, rel=1e-3))


def test_the_switch_is_asked_where_the_answers_differ() -> None:
    """Where both models answer the same, it does not matter which of them does."""
    base, tuned = answered(0.9), answered(0.6)

    class Encoder:
        def prompt_ids(self, messages: list[Message]) -> list[int]:
            return [len(messages[0].content)]

    class Even:
        asked: ClassVar[list[list[int]]] = []

        def chosen_of(self, model: object, prompts: list[list[int]]) -> list[bool]:
            self.asked.extend(prompts)
            return [ids[0] % 2 == 0 for ids in prompts]

    found = switched(base, tuned, cast(Any, Even()), SimpleNamespace(model=None), cast(Any, Encoder()))  # type: ignore[arg-type]
    differing = {
        after.prompt
        for task, other in zip(base.tasks, tuned.tasks, strict=True)
        for before, after in zip(task.answers, other.answers, strict=True)
        if before != after
    }
    assert 0 < len(Even.asked) == len(differing)
    for before, after, chosen in zip(base.tasks, tuned.tasks, found.tasks, strict=True):
        for one, two, taken in zip(before.answers, after.answers, chosen.answers, strict=True):
            assert taken == (two if len(two.prompt) % 2 == 0 else one)
