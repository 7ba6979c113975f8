"""A loaded tiny model, whose answers end where a test wants them to."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from mlx_loopai.models.load import LoadedModel, load_model, load_tokenizer


@pytest.fixture(scope="session")
def tiny(tiny_model_folder: Path) -> LoadedModel:
    return load_model(str(tiny_model_folder), "fp32")


@pytest.fixture
def ending_at(tiny: LoadedModel) -> Callable[[set[int]], LoadedModel]:
    """The tiny model with other end-of-text tokens."""

    def build(eos: set[int]) -> LoadedModel:
        tokenizer = load_tokenizer(tiny.path)
        tokenizer._eos_token_ids = eos
        return dataclasses.replace(tiny, tokenizer=tokenizer)

    return build
