"""Models that see, converted: the text model of them, and a line that says what is left out."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from converters.convert import convert
from converters.vision_encoder import add_encoder
from converters.writers.target import Target
from mlx_loopai.models.load import load_model
from tests.tiny_vision_folder import TOWERS, write_vision_folder

IDS = mx.array(np.random.default_rng(0).integers(3, 300, (1, 9)))


@pytest.mark.parametrize("layout", ["transformers", "old", "mlx"])
@pytest.mark.parametrize("family", TOWERS)
def test_the_text_model_is_converted_and_the_tower_named(
    family: str, layout: str, tmp_path: Path, tiny_model_folder: Path
) -> None:
    source = write_vision_folder(tmp_path / "vl", family, tiny_model_folder, layout)
    found = convert(source, tmp_path / "out", target=Target(to="mlx", dtype="fp32"), check=True)
    assert any("no part of the text model" in note for note in found.notes)
    seeing, text = (load_model(str(folder), "fp32") for folder in (source, tmp_path / "out"))
    assert text.vision is None
    assert np.array_equal(np.array(seeing.model(IDS)), np.array(text.model(IDS)))


def test_an_added_encoder_is_named(tmp_path: Path, tiny_model_folder: Path) -> None:
    added = add_encoder(str(tiny_model_folder), "patches", tmp_path / "seeing")
    found = convert(added.out, tmp_path / "out", dtype="fp32")
    assert any("vision/ is left out" in note for note in found.notes)
