"""Every architecture of the table opens, is counted, learns, keeps its adapter, answers and is diagnosed."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_loopai.config import LoraOptions, SamplingOptions, TrainOptions
from mlx_loopai.diagnostics.attention import attention
from mlx_loopai.diagnostics.hidden import sentence_states
from mlx_loopai.generation.engine import generate_batch, generate_stream
from mlx_loopai.models.adapters import load_adapter, save_adapter
from mlx_loopai.models.architectures import ARCHITECTURES
from mlx_loopai.models.backbone import hidden_states
from mlx_loopai.models.load import LoadedModel, load_model
from mlx_loopai.models.lora import apply_lora, lora_modules
from mlx_loopai.models.loss import Head
from mlx_loopai.models.micro_batch import MicroBatch
from mlx_loopai.training.optimizer import build_optimizer
from mlx_loopai.training.step import StepSettings, TrainStep
from tests.tiny_architectures import CONFIGS, TOLERANCES, VOCAB, write_architecture

RNG = np.random.default_rng(3)
PROMPTS = [RNG.integers(3, VOCAB, size).tolist() for size in (5, 1, 12, 40, 2)]
GREEDY = SamplingOptions(temperature=0, max_tokens=8)


@pytest.fixture(scope="module", params=CONFIGS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    place = tmp_path_factory.mktemp("architecture") / "model"
    return write_architecture(place, request.param, tiny_model_folder)


@pytest.fixture
def loaded(folder: Path) -> LoadedModel:
    return load_model(str(folder), "fp32")


def tolerance(loaded: LoadedModel) -> float:
    return TOLERANCES.get(loaded.shape.architecture, 1e-5)


def logits(loaded: LoadedModel, ids: list[int]) -> np.ndarray:
    head = Head.of(loaded.model)
    return np.array(head.project(head.arrays, hidden_states(loaded.model, mx.array([ids])), transpose=True))[0]


def test_the_table_is_tried_whole() -> None:
    assert {config["model_type"] for config in CONFIGS.values()} == set(ARCHITECTURES)


def test_its_parameters_and_adapters_are_counted(loaded: LoadedModel) -> None:
    stored = sum(array.size for _, array in tree_flatten(loaded.model.parameters()))
    assert loaded.shape.parameters == stored
    apply_lora(loaded.model, LoraOptions(rank=3, layers=1), seed=0)
    learns = sum(array.size for _, array in tree_flatten(loaded.model.trainable_parameters()))
    assert loaded.shape.lora_parameters(3, layers=1) == learns


def test_trained_states_are_those_that_answer(loaded: LoadedModel) -> None:
    """What training computes block by block is what mlx-lm's own call gives."""
    for ids in PROMPTS:
        expected = np.array(loaded.model(mx.array([ids])))[0]
        assert np.abs(logits(loaded, ids) - expected).max() < tolerance(loaded) * max(1, np.abs(expected).max())


def test_it_learns_and_its_adapter_comes_back(loaded: LoadedModel, folder: Path, tmp_path: Path) -> None:
    options = LoraOptions(rank=3)
    apply_lora(loaded.model, options, seed=1)
    loaded.model.train()
    step = TrainStep(loaded.model, build_optimizer(TrainOptions()), StepSettings(clip=1.0, chunk_rows=8))
    # Rows of its own: what RNG gives depends on the tests that ran before.
    ids = np.random.default_rng(5).integers(3, VOCAB, (2, 20)).astype(np.int32)
    losses = [step([MicroBatch(ids, np.ones(ids.shape, np.bool_))], 0.02).loss for _ in range(20)]
    assert losses[-1] < 0.8 * losses[0]
    loaded.model.eval()
    save_adapter(tmp_path / "adapter", loaded.model, options, loaded.base_hash)
    again = load_model(str(folder), "fp32")
    load_adapter(again.model, tmp_path / "adapter", again.base_hash)
    assert lora_modules(again.model).keys() == lora_modules(loaded.model).keys()
    assert np.array_equal(logits(again, PROMPTS[3]), logits(loaded, PROMPTS[3]))


def test_answers_together_are_those_one_by_one(loaded: LoadedModel) -> None:
    together = [one.tokens for one in generate_batch(loaded, PROMPTS, GREEDY, batch_rows=3)]
    alone = [
        tuple(piece.token for piece in generate_stream(loaded, prompt, GREEDY) if piece.token is not None)
        for prompt in PROMPTS
    ]
    assert together == alone
    assert any(len(tokens) > 1 for tokens in alone)
    ids = PROMPTS[3] + list(alone[3])
    chosen = logits(loaded, ids)[len(PROMPTS[3]) - 1 : -1, : loaded.n_tokens].argmax(-1)
    assert chosen.tolist() == list(alone[3])


def test_it_is_diagnosed(loaded: LoadedModel) -> None:
    shape = loaded.shape
    assert sentence_states(loaded.model, PROMPTS[:2]).shape == (shape.n_layers + 1, 2, shape.hidden_size)
    found = attention(loaded.model, PROMPTS[3:4], ["a", "b"] * (VOCAB // 2))
    assert found.mass.shape == (shape.attending_blocks, shape.n_heads, 2)
