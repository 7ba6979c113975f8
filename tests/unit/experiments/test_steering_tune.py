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


def test_rates() -> None:
    assert Count(5, 1000).per_1000 == 5.0
    assert Count(1, 1000).reduction_from(Count(10, 1000)) == pytest.approx(0.9)
    assert Count(0, 0).per_1000 == 0.0
    assert Count(0, 10).reduction_from(Count(0, 10)) == 1.0


def test_the_mildest_factor_that_is_enough_is_found(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = 0.7
    seen: list[float] = []

    def counted(trial: object, prompts: object, label: str) -> Count:
        steered = label.startswith("answers at")
        if not steered:
            return Count(100, 1000) if "steered" not in label else Count(4, 1000)
        seen.append(float(label.rsplit(" ", 1)[1]))
        return Count(2 if seen[-1] <= wanted else 60, 1000)

    monkeypatch.setattr(steering._Trial, "_count", counted)
    found = tune(session, Search())
    assert found.factor == wanted
    assert found.text == "han=0.7,kana=0.7"
    assert [one.factor for one in found.tried] == sorted(seen, reverse=True)
    assert len(seen) <= 4 < len(FACTORS)
    assert found.held_out == (Count(100, 1000), Count(4, 1000))


def test_no_factor_may_be_enough(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steering._Trial, "_count", lambda *_: Count(50, 1000))
    found = tune(session, Search())
    assert isinstance(found, Tuning)
    assert (found.factor, found.text, found.held_out) == (None, None, None)


def test_what_is_refused(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="3 prompts cannot be halved"):
        tune(session, Search(prompts=("가", "나", "다")))
    monkeypatch.setattr(steering._Trial, "_count", lambda *_: Count(0, 1000))
    with pytest.raises(InputError, match="hold no han or kana"):
        tune(session, Search())


def test_a_whole_search(session: Session) -> None:
    search = Search(("latin",), ("a b c", "안녕", "user", "system"), max_tokens=6, least_reduction=0.0)
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
    monkeypatch.setattr(steering._Trial, "_count", lambda trial, prompts, label: Count(0 if "at" in label else 9, 100))
    monkeypatch.setattr(steering, "measure_suite", lambda *_: next(results))
    found = tune(session, Search(tasks=tasks))
    assert found.kept is not None
    assert found.kept.per_task == {"facts": 1.0, "translation": pytest.approx(0.5)}
    assert found.kept.mean == pytest.approx(0.75)
    assert found.kept.apart == {"translation": (1.0, 0.0), "facts_zh": (1.0, 0.5)}
