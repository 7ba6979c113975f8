from __future__ import annotations

import pytest

from mlx_loopai.models.known_shapes import known_config, known_names, near_names
from mlx_loopai.models.shape import ModelShape

# Billions of parameters, all and without the embeddings, as the model cards say.
CARDS = {
    "Qwen2.5-0.5B": (0.49, 0.36),
    "Qwen2.5-1.5B": (1.54, 1.31),
    "Qwen2.5-3B": (3.09, 2.77),
    "Qwen2.5-7B": (7.61, 6.53),
    "Qwen2.5-14B": (14.7, 13.1),
    "Qwen3-0.6B": (0.6, 0.44),
    "Qwen3-1.7B": (1.7, 1.4),
    "Qwen3-4B": (4.0, 3.6),
    "Qwen3-8B": (8.2, 6.95),
    "Qwen3-14B": (14.8, 13.2),
}
# Of these only the name says how large the text model is.
NAMES = {"Qwen3.5-0.8B": 0.8, "Qwen3.5-2B": 2.0, "Qwen3.5-4B": 4.0}


def test_every_card_has_its_shape() -> None:
    assert known_names() == [f"{name}-shape" for name in CARDS | NAMES]


@pytest.mark.parametrize("name", CARDS)
def test_parameters_are_those_of_the_card(name: str) -> None:
    config = known_config(f"{name}-shape")
    assert config is not None
    shape = ModelShape.from_config(config)
    every, without_embeddings = CARDS[name]
    embeddings = shape.vocab_size * shape.hidden_size * (1 if shape.tied_head else 2)
    assert shape.parameters / 1e9 == pytest.approx(every, rel=0.015)
    assert (shape.parameters - embeddings) / 1e9 == pytest.approx(without_embeddings, rel=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_about_those_of_the_name(name: str) -> None:
    config = known_config(f"{name}-shape")
    assert config is not None
    assert ModelShape.from_config(config).parameters / 1e9 == pytest.approx(NAMES[name], rel=0.07)


def test_spelling_and_strangers() -> None:
    assert known_config("qwen2.5-3b-SHAPE") == known_config("Qwen2.5-3B-shape")
    assert known_config("Qwen2.5-3B") is None  # a hub id's last part: its own config.json decides
    assert near_names("Qwen2.5-33B-shape")[0] == "Qwen2.5-3B-shape"
