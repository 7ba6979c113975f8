"""The search for the mildest damping, on a model that hardly knows anything but is quick."""

from __future__ import annotations

from pathlib import Path

import mlx_loopai  # noqa: F401

# isort: split
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from converters.convert import convert
from converters.writers.target import Target
from mlx_loopai.errors import InputError
from mlx_loopai.evaluation.questions import QUESTION_JUDGE, Question
from mlx_loopai.evaluation.suite_run import SuiteResult
from mlx_loopai.evaluation.tasks import Asked, JudgedAnswer, TaskResult
from mlx_loopai.experiments import steering
from mlx_loopai.experiments.steering import FACTORS, Count, Search, Tuning, tune
from mlx_loopai.generation.session import Session, open_session
from mlx_loopai.models.load import load_model
from mlx_loopai.models.steering import steered_head
from mlx_loopai.models.token_bytes import bytes_of_tokens
from mlx_loopai.models.token_scripts import row_factors

IDS = mx.array([[5, 6, 7, 8]])


@pytest.mark.parametrize("bits", [0, 4])
def test_a_steered_head_is_the_exported_one(tmp_path: Path, tiny_model_folder: Path, bits: int) -> None:
    convert(tiny_model_folder, tmp_path / "out", target=Target(steer="latin=0.5"))
    wanted = np.array(load_model(str(tmp_path / "out"), "fp32").model(IDS))
    loaded = load_model(str(tiny_model_folder), "fp32")
    plain = np.array(loaded.model(IDS))
    added = set(loaded.tokenizer.added_tokens_decoder)
    words = {index: token for token, index in loaded.tokenizer.get_vocab().items() if index not in added}
    factors = row_factors(bytes_of_tokens(words, "here"), {"latin": 0.5}, loaded.shape.vocab_size)
    with steered_head(loaded.model, factors):
        np.testing.assert_allclose(np.array(loaded.model(IDS)), wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(np.array(loaded.model(IDS)), plain)
    if bits:
        few = load_model(str(tiny_model_folder), "fp32")
        nn.quantize(few.model, group_size=32, bits=bits)
        before = np.array(few.model(IDS))
        with steered_head(few.model, factors):
            np.testing.assert_allclose(np.array(few.model(IDS)), before * factors, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(np.array(few.model(IDS)), before)


@pytest.fixture
def session(tiny_model_folder: Path) -> Session:
    return open_session(str(tiny_model_folder))


def _count(*foreign: int) -> Count:
    """Letters of prompts whose answers have a thousand each."""
    return Count(tuple((one, 1000) for one in foreign))


def test_rates() -> None:
    assert _count(5).per_1000 == 5.0
    assert _count(1).reduction_from(_count(10)) == pytest.approx(0.9)
    assert Count(((0, 0),)).per_1000 == 0.0
    assert _count(0).reduction_from(_count(0)) == 1.0


def test_letters_are_counted_for_each_prompt() -> None:
    answers = [["가나 漢字", "새옹지마(塞翁之馬)"], ["かな", "abc"]]
    assert Count.of(answers, ("han", "kana")).by_prompt == ((2, 8), (2, 5))


def _reference_interval(after: Count, before: Count) -> tuple[float, float]:
    """Prompts drawn anew one by one, 5,000 times."""
    rng, found = np.random.default_rng(7), []
    for _ in range(5000):
        drawn = rng.integers(len(before.by_prompt), size=len(before.by_prompt))
        left, letters, old, old_letters = 1, 0, 0, 0
        for prompt in drawn:
            left += after.by_prompt[prompt][0]
            letters += after.by_prompt[prompt][1]
            old += before.by_prompt[prompt][0]
            old_letters += before.by_prompt[prompt][1]
        found.append(1 - left / letters * old_letters / old if old else 0.0)
    low, high = np.percentile(found, [2.5, 97.5])
    return low, high


def test_the_interval_is_that_of_prompts_drawn_anew() -> None:
    before = Count(((30, 500), (0, 900), (12, 700), (5, 800), (44, 600), (8, 650)))
    after = Count(((2, 520), (0, 910), (0, 690), (1, 805), (3, 630), (0, 640)))
    assert after.reduction_interval(before) == pytest.approx(_reference_interval(after, before), abs=0.02)


def test_few_letters_prove_little() -> None:
    """None is left in all three. But that is certain only where there were many, and in answers to many prompts."""
    none = _count(*[0] * 12)
    many, few, one_prompt = _count(*[10] * 12), _count(*[1] * 4, *[0] * 8), _count(120, *[0] * 11)
    assert none.reduction_interval(many)[0] > 0.98
    assert none.reduction_interval(few)[0] < 0.5
    assert none.reduction_interval(one_prompt)[0] == 0.0


def test_the_mildest_factor_that_is_enough_is_found(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = 0.7
    seen: list[float] = []

    def counted(trial: object, prompts: object, label: str) -> Count:
        steered = label.startswith("answers at")
        if not steered:
            return _count(100) if "steered" not in label else _count(4)
        seen.append(float(label.rsplit(" ", 1)[1]))
        return _count(2 if seen[-1] <= wanted else 60)

    monkeypatch.setattr(steering._Trial, "_count", counted)
    found = tune(session, Search())
    assert found.factor == wanted
    assert found.text == "han=0.7,kana=0.7"
    assert [one.factor for one in found.tried] == sorted(seen, reverse=True)
    assert len(seen) <= 4 < len(FACTORS)
    assert found.held_out == (_count(100), _count(4))


def test_a_factor_that_is_enough_only_on_average_is_not_taken(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 0.7 nine tenths are gone, but all that is left is in one of the prompts: another half may have two of them."""
    base, at_edge = _count(*[30] * 12), _count(36, *[0] * 11)

    def counted(trial: object, prompts: object, label: str) -> Count:
        if not label.startswith("answers at"):
            return base
        factor = float(label.rsplit(" ", 1)[1])
        return base if factor > 0.7 else at_edge if factor > 0.5 else _count(*[0] * 12)

    monkeypatch.setattr(steering._Trial, "_count", counted)
    assert at_edge.reduction_from(base) == pytest.approx(0.9)
    assert tune(session, Search()).factor == 0.5


def test_no_factor_may_be_enough(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steering._Trial, "_count", lambda *_: _count(50))
    found = tune(session, Search())
    assert isinstance(found, Tuning)
    assert (found.factor, found.text, found.held_out) == (None, None, None)


def test_what_is_refused(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="3 prompts cannot be halved"):
        tune(session, Search(prompts=("가", "나", "다")))
    monkeypatch.setattr(steering._Trial, "_count", lambda *_: _count(0))
    with pytest.raises(InputError, match="hold no han or kana"):
        tune(session, Search())
    monkeypatch.setattr(steering._Trial, "_count", lambda *_: _count(7))
    with pytest.raises(InputError, match="hold 7 letters of han and kana, too few to prove that 90% of them disappear"):
        tune(session, Search())


def test_a_whole_search(session: Session) -> None:
    search = Search(("latin",), ("a b c", "안녕", "user", "system"), answers=2, max_tokens=6, least_reduction=-9.0)
    found = tune(session, search)
    assert found.factor == FACTORS[0]
    assert found.base.letters >= found.base.foreign > 0
    assert found.held_out is not None


CHINESE = (Question("星期天？", ("星期天",), language="zh"), Question("'Friend' in Chinese?", ("朋友", "友人")))
KOREAN = (Question("수도는?", ("서울", "Seoul", "首爾")), Question("몇 개?", ("3",), language="ko"))


def test_what_is_kept_is_measured_beside_it(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = [
        Asked.of("facts", KOREAN, QUESTION_JUDGE),
        Asked.of("translation", (*CHINESE, *KOREAN), QUESTION_JUDGE),
        Asked.of("facts_zh", CHINESE, QUESTION_JUDGE),
    ]

    def result(*right: str) -> SuiteResult:
        return SuiteResult(
            tuple(
                TaskResult(
                    name=task.name,
                    chance=0.0,
                    answers=tuple(JudgedAnswer(prompt="", text="", right=one == "1") for one in given),
                )
                for task, given in zip(tasks, right, strict=True)
            ),
            {},
        )

    results = iter([result("11", "1111", "11"), result("11", "0010", "10")])
    monkeypatch.setattr(steering._Trial, "_count", lambda trial, prompts, label: _count(0 if "at" in label else 90))
    monkeypatch.setattr(steering, "measure_suite", lambda *_: next(results))
    found = tune(session, Search(tasks=tasks))
    assert found.kept is not None
    assert found.kept.per_task == {"facts": 1.0, "translation": pytest.approx(0.5)}
    assert found.kept.mean == pytest.approx(0.75)
    assert found.kept.apart == {"translation": (1.0, 0.0), "facts_zh": (1.0, 0.5)}
