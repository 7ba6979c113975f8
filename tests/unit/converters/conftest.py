"""Tiny random models, written with the formats' own libraries and not with ours."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from converters.names import expected_tensors
from tests.tiny_files import write_gguf, write_tokenizer

CONFIG: dict[str, Any] = {
    "model_type": "qwen2",
    "vocab_size": 32,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-6,
    "rope_theta": 5000.0,
    "tie_word_embeddings": False,
}


def random_tensors(config: dict[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(0, 0.2, shape).astype(np.float32) for name, shape in expected_tensors(config).items()}


@pytest.fixture
def config() -> dict[str, Any]:
    """The configuration of the tiny model, to be changed freely."""
    return dict(CONFIG)


@pytest.fixture
def make_tokenizer() -> Callable[..., Path]:
    return write_tokenizer


@pytest.fixture
def make_tensors() -> Callable[..., dict[str, np.ndarray]]:
    return random_tensors


@pytest.fixture
def tokenizer_folder(tmp_path: Path) -> Path:
    return write_tokenizer(tmp_path / "tokenizer")


@pytest.fixture
def model_folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes a Hugging Face folder; keyword arguments change the configuration."""

    def build(name: str = "source", dtype: type = np.float32, **changes: Any) -> Path:
        config = CONFIG | changes
        folder = write_tokenizer(tmp_path / name)
        tensors = {key: value.astype(dtype) for key, value in random_tensors(config).items()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        (folder / "generation_config.json").write_text('{"eos_token_id": [28, 26]}', encoding="utf-8")
        return folder

    return build


@pytest.fixture
def gguf_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes a GGUF file; `kinds` gives the tensor type by GGUF name, F32 otherwise."""

    def build(name: str = "model.gguf", kinds: dict[str, str] | None = None, **changes: Any) -> Path:
        config = CONFIG | changes
        return write_gguf(tmp_path / name, config, random_tensors(config), kinds)

    return build


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of random pixels, 40 high and 24 wide."""
    path = tmp_path_factory.mktemp("picture") / "a.png"
    pixels = np.random.default_rng(1).integers(0, 256, (40, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path
