"""Rows of prompts that are equal, or read in parts: the same for caches of windows, of states and of keys and values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mlx_loopai.config import SamplingOptions
from mlx_loopai.generation.batch import Batch, Request
from mlx_loopai.generation.engine import generate_batch
from mlx_loopai.models.answering_pass import LEAST_OPENING
from mlx_loopai.models.load import LoadedModel, load_model
from tests.tiny_architectures import CONFIGS, write_architecture

RNG = np.random.default_rng(4)
PROMPTS = [RNG.integers(3, 64, size).tolist() for size in (9, 40, 70)]
GREEDY = SamplingOptions(temperature=0, max_tokens=8)


@pytest.fixture(scope="module", params=CONFIGS)
def loaded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path
) -> LoadedModel:
    folder = write_architecture(tmp_path_factory.mktemp("model") / "one", request.param, tiny_model_folder)
    return load_model(str(folder), "fp32")


def _alone(loaded: LoadedModel, prompt: list[int]) -> tuple[int, ...]:
    return generate_batch(loaded, [prompt], GREEDY)[0].tokens


def test_equal_prompts_are_answered_alike(loaded: LoadedModel) -> None:
    prompts = [PROMPTS[place] for place in (0, 1, 0, 2, 1)] + [[5], [5]]
    found = generate_batch(loaded, prompts, GREEDY)
    assert [one.tokens for one in found] == [_alone(loaded, prompt) for prompt in prompts]


def test_prompts_are_read_in_parts_beside_a_writer(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlx_loopai.generation.batch.PREFILL_BESIDE_TOKENS", 24)
    written: dict[int, list[int | None]] = {}
    with Batch(loaded, 8) as batch:
        keys = [batch.add(Request(PROMPTS[0], GREEDY.model_copy(update={"max_tokens": 30})))]
        while keys[0] not in written:
            written |= {found.key: [found.piece.token] for found in batch.step()}
        keys += [batch.add(Request(prompt, GREEDY)) for prompt in PROMPTS[1:]]
        while len(batch):
            for found in batch.step():
                written.setdefault(found.key, []).append(found.piece.token)
    for key, prompt in zip(keys, PROMPTS, strict=True):
        expected = _alone(loaded, prompt)
        assert tuple(token for token in written[key] if token is not None)[: len(expected)] == expected


def test_rows_with_one_opening_are_answered_as_alone(loaded: LoadedModel) -> None:
    """They meet its keys together on a CPU, whoever of them ends first."""
    opening = RNG.integers(3, 64, LEAST_OPENING + 8).tolist()
    prompts = [[*opening, *RNG.integers(3, 64, size).tolist()] for size in (3, 20, 1, 11)]
    written: dict[int, list[int]] = {}
    with Batch(loaded, 8) as batch:
        keys = [
            batch.add(Request(prompt, GREEDY.model_copy(update={"max_tokens": 4 + 2 * row})))
            for row, prompt in enumerate(prompts)
        ]
        while len(batch):
            for found in batch.step():
                written.setdefault(found.key, []).extend(() if found.piece.token is None else [found.piece.token])
    for row, (key, prompt) in enumerate(zip(keys, prompts, strict=True)):
        expected = _alone(loaded, prompt)[: 4 + 2 * row]
        assert tuple(written[key])[: len(expected)] == expected
