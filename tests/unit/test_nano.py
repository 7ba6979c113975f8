"""The embedded model knows what its card says."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlx_loopai.data.records import Message
from mlx_loopai.data.samples import corpus, skills
from mlx_loopai.data.tokens import ChatEncoder
from mlx_loopai.evaluation.perplexity import nll
from mlx_loopai.evaluation.suite_run import run_suite
from mlx_loopai.evaluation.suites import nano_tasks
from mlx_loopai.generation.engine import SamplingOptions, generate_batch
from mlx_loopai.models.load import NANO_FOLDER, LoadedModel, load_model
from mlx_loopai.text.measures import is_looping, json_shaped, purity

STORY_PROMPTS = [
    f"{name} 이야기를 들려주세요."
    for name in "민서 도윤 하람 서아 지호 나래 은결 다온 준서 소미 우주 가온 라희 태오 유하".split()
] + [
    "아기 토끼 이야기를 들려주세요.",
    "꼬마 여우 이야기를 들려주세요.",
    "반딧불은 왜 빛나나요?",
    "고마워요.",
    "오늘 기분이 좋아요.",
]


@pytest.fixture(scope="module")
def nano() -> LoadedModel:
    return load_model("nano")


@pytest.mark.parametrize("name", skills.SKILLS)
def test_scores_well_above_chance(nano: LoadedModel, name: str) -> None:
    task = next(task for task in nano_tasks() if task.name == name)
    (result,) = run_suite(nano, ChatEncoder(nano.tokenizer), [task]).tasks
    assert result.n >= 200
    assert result.score >= (0.9 if name == "facts_ko" else result.chance + 0.5), result.answers[:5]


def test_writes_korean(nano: LoadedModel) -> None:
    encoder = ChatEncoder(nano.tokenizer)
    prompts = [encoder.prompt_ids([Message("user", prompt)]) for prompt in STORY_PROMPTS]
    answers = [
        answer.text for answer in generate_batch(nano, prompts, SamplingOptions(temperature=0.0, max_tokens=200))
    ]
    assert len(answers) == 20
    assert sum(map(purity, answers)) / len(answers) >= 0.95
    assert not any(map(json_shaped, answers))
    assert sum(map(is_looping, answers)) <= 1, answers


def test_has_learnt_from_text_it_did_not_see(nano: LoadedModel) -> None:
    encoder = ChatEncoder(nano.tokenizer)
    losses = nll(nano.model, [encoder.encode(record) for record in corpus.held_out_texts()])
    uniform = 4096
    assert losses.perplexity < uniform / 2


def test_is_small_enough_for_git() -> None:
    assert sum(file.stat().st_size for file in Path(NANO_FOLDER).iterdir()) <= 15_000_000


def test_the_hand_written_texts_are_of_the_promised_size() -> None:
    from mlx_loopai.data.samples.texts import TEXTS_FOLDER

    assert sum(file.stat().st_size for file in TEXTS_FOLDER.glob("*.txt")) >= 150_000
