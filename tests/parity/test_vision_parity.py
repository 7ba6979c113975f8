"""Pixels, positions, towers and logits of models that read pictures: equal to transformers'."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx_loopai  # noqa: F401

# isort: split
import mlx.core as mx
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from converters.convert import convert
from converters.writers.target import Target
from mlx_loopai.models.backbone import hidden_states
from mlx_loopai.models.load import LoadedModel, load_model
from mlx_loopai.models.loss import Head
from mlx_loopai.models.vision.patches import Grid, patches_of, resized
from mlx_loopai.models.vision.pictures import Pictures
from mlx_loopai.models.vision.positions import rope_positions
from tests.parity.tiny_models import VOCAB
from tests.parity.tiny_vision import AFTER, BEFORE, IMAGE_TOKEN, TOWERS, processor, save, tiny_vision_model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.parity

# (width, height) of the pictures of a prompt.
PROMPTS = {"one picture": [(40, 28)], "two pictures": [(40, 28), (17, 61)], "odd aspect": [(150, 9)], "text only": []}


def picture(size: tuple[int, int], seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)


@pytest.fixture(scope="module", params=TOWERS)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, LoadedModel]:
    kind = request.param
    theirs = tiny_vision_model(kind)
    folder = save(theirs, kind, tmp_path_factory.mktemp("vision") / "model")
    return kind, theirs, load_model(str(folder), "fp32")


def own_patches(image: Image.Image, ours: LoadedModel) -> tuple[npt.NDArray[np.float32], Grid]:
    assert ours.vision is not None
    settings = ours.vision.settings.patches
    height, width = resized(image.height, image.width, settings)
    scaled = image.resize((width, height), Image.Resampling.BICUBIC)
    return patches_of(np.asarray(scaled), settings)


def prompt(grids: list[Grid]) -> tuple[list[int], list[int]]:
    """(tokens with a text around every picture, where the pictures begin)."""
    generator = np.random.default_rng(7)
    ids, starts = generator.integers(0, 80, 5).tolist(), []
    for grid in grids:
        ids += [BEFORE]
        starts.append(len(ids))
        ids += [IMAGE_TOKEN] * grid.features + [AFTER] + generator.integers(0, 80, 4).tolist()
    return ids, starts


@pytest.mark.parametrize("sizes", PROMPTS.values(), ids=PROMPTS)
def test_pixels_tower_positions_and_logits(both: tuple[str, Any, LoadedModel], sizes: list[tuple[int, int]]) -> None:
    kind, theirs, ours = both
    images = [picture(size, seed) for seed, size in enumerate(sizes)]
    vision = ours.vision
    assert vision is not None
    inputs: dict[str, Any] = {}
    found = [own_patches(image, ours) for image in images]
    ids, starts = prompt([grid for _, grid in found])
    if images:
        given = processor(kind)(images, return_tensors="np")
        assert np.abs(np.concatenate([patches for patches, _ in found]) - given["pixel_values"]).max() <= 1e-6
        assert [[1, grid.rows, grid.columns] for _, grid in found] == given["image_grid_thw"].tolist()
        inputs = {
            "pixel_values": torch.tensor(given["pixel_values"]),
            "image_grid_thw": torch.tensor(given["image_grid_thw"]),
            "mm_token_type_ids": (torch.tensor([ids]) == IMAGE_TOKEN).int(),
        }
        positions, _ = theirs.model.get_rope_index(
            torch.tensor([ids]), mm_token_type_ids=inputs["mm_token_type_ids"], image_grid_thw=inputs["image_grid_thw"]
        )
        own = rope_positions(len(ids), starts, [grid for _, grid in found])
        assert np.array_equal(own, positions[:, 0].numpy())
    features = [vision.features(patches, grid) for patches, grid in found]
    with torch.no_grad():
        expected = theirs(torch.tensor([ids]), **inputs).logits.numpy()
        if images:
            seen = theirs.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"], return_dict=True)
            for mine, other in zip(features, seen.pooler_output, strict=True):
                assert np.abs(np.array(mine.features) - other.numpy()).max() <= 1e-5
    pictures = Pictures.of(len(ids), starts, features, three_positions=True) if images else None
    head = Head.of(ours.model)
    states = hidden_states(ours.model, mx.array([ids]), pictures=pictures)
    logits = np.array(head.project(head.arrays, states, transpose=True))
    assert logits.shape == expected.shape == (1, len(ids), VOCAB)
    assert np.abs(logits - expected).max() <= 1e-5


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", TOWERS)
def test_what_convert_writes_is_the_same_model_in_transformers(kind: str, tied: bool, tmp_path: Path) -> None:
    """By way of an MLX folder, and from one that was written flat, as before version 5."""
    theirs = tiny_vision_model(kind, tied)
    source = save(theirs, kind, tmp_path / "model")
    convert(source, tmp_path / "mlx", target=Target(to="mlx"), check=True)
    convert(tmp_path / "mlx", tmp_path / "hf", target=Target(to="hf"), check=True)
    given = processor(kind)([picture((40, 28))], return_tensors="pt")
    _, rows, columns = given["image_grid_thw"][0].tolist()
    ids, _ = prompt([Grid(rows, columns, 2)])
    inputs = {
        "pixel_values": given["pixel_values"],
        "image_grid_thw": given["image_grid_thw"],
        "mm_token_type_ids": (torch.tensor([ids]) == IMAGE_TOKEN).int(),
    }
    with torch.no_grad():
        expected = theirs(torch.tensor([ids]), **inputs).logits
        for folder in ("hf", "model"):
            found, told = type(theirs).from_pretrained(tmp_path / folder, output_loading_info=True)
            assert not any(told.values())
            assert torch.equal(found.eval()(torch.tensor([ids]), **inputs).logits, expected), folder
