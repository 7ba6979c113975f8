"""`vision add`: the folder it writes, the encoders, and the text model that stays as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from click.testing import CliRunner
from mlx_lm.utils import load_model as by_mlx_lm

from converters.vision_encoder import add_encoder
from mlx_loopai.cli.main import commands
from mlx_loopai.data.images import given_picture
from mlx_loopai.data.sight import Sight
from mlx_loopai.errors import InputError
from mlx_loopai.models.load import LoadedModel, load_model
from mlx_loopai.models.vision import efficientnet
from mlx_loopai.models.vision.added import square_patches, square_width
from mlx_loopai.models.vision.efficientnet import EfficientNetLite0
from mlx_loopai.models.vision.patches import Grid
from tests.tiny_vision_folder import write_vision_folder
from tests.unit.converters.torch_archives import write_legacy

IDS = mx.array(np.random.default_rng(0).integers(3, 300, (1, 9)))


def features(loaded: LoadedModel, picture: Path) -> np.ndarray:
    assert loaded.vision is not None
    return np.array(loaded.vision.features(*Sight(loaded.vision.settings).pixels(given_picture(picture))).features)


def random_efficientnet() -> dict[str, np.ndarray]:
    """Weights of the released names and shapes, as small as the network allows: the stages' own widths."""
    rng = np.random.default_rng(5)
    found: dict[str, np.ndarray] = {}

    def layer(convolution: str, norm: str, shape: tuple[int, ...]) -> None:
        found[f"{convolution}.weight"] = rng.normal(size=shape).astype(np.float32) / np.float32(
            np.sqrt(np.prod(shape[1:]))
        )
        for name in ("weight", "bias", "running_mean", "running_var"):
            found[f"{norm}.{name}"] = rng.uniform(0.5, 1.5, shape[0]).astype(np.float32)
        found[f"{norm}.num_batches_tracked"] = np.array(1, np.int64)

    layer("_conv_stem", "_bn0", (32, 3, 3, 3))
    into, number = 32, 0
    for repeats, kernel, _, expansion, out in efficientnet._STAGES:
        for _ in range(repeats):
            prefix, inner = f"_blocks.{number}.", into * expansion
            if expansion > 1:
                layer(f"{prefix}_expand_conv", f"{prefix}_bn0", (inner, into, 1, 1))
            layer(f"{prefix}_depthwise_conv", f"{prefix}_bn1", (inner, 1, kernel, kernel))
            layer(f"{prefix}_project_conv", f"{prefix}_bn2", (out, inner, 1, 1))
            into, number = out, number + 1
    layer("_conv_head", "_bn1", (1280, 320, 1, 1))
    return found | {"_fc.weight": np.zeros((10, 1280), np.float32), "_fc.bias": np.zeros(10, np.float32)}


def test_the_text_model_stays_as_it_is(tmp_path: Path, tiny_model_folder: Path) -> None:
    added = add_encoder(str(tiny_model_folder), "patches", tmp_path / "out")
    assert added.tokens == 16
    plain, seeing = load_model(str(tiny_model_folder), "fp32"), load_model(str(tmp_path / "out"), "fp32")
    assert np.array_equal(np.array(plain.model(IDS)), np.array(seeing.model(IDS)))
    theirs, _ = by_mlx_lm(tmp_path / "out")
    assert np.array_equal(np.array(plain.model(IDS)), np.array(theirs(IDS)))
    # Another projector is another base: an adapter with one must not be put on the other.
    other = add_encoder(str(tiny_model_folder), "patches", tmp_path / "other", seed=1)
    assert load_model(str(other.out), "fp32").base_hash != seeing.base_hash != plain.base_hash


def test_patches_are_the_pixels_of_their_squares() -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    found = np.array(square_patches(pixels, Grid(2, 2, 1)))
    assert found.shape == (4, square_width(8, 2)) == (4, 52)
    for place, values in enumerate(found):
        row, column = divmod(place, 2)
        expected = pixels[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] / 127.5 - 1
        assert np.abs(values[:48].reshape(4, 4, 3) - expected).max() < 1e-6
        assert values[48:].tolist() == [row == 0, row == 1, column == 0, column == 1]


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl"])
def test_a_tower_is_taken_from_a_model_that_sees(
    tmp_path: Path, tiny_model_folder: Path, picture: Path, family: str
) -> None:
    source = write_vision_folder(tmp_path / "vl", family, tiny_model_folder)
    add_encoder(str(tiny_model_folder), str(source), tmp_path / "out")
    expected = features(load_model(str(source), "fp32"), picture)
    assert np.array_equal(features(load_model(str(tmp_path / "out"), "fp32"), picture), expected)


def test_efficientnet_computes_what_its_layers_say() -> None:
    """The stem and the first block in plain numpy, on a picture of odd sides."""
    weights = random_efficientnet()
    network = EfficientNetLite0({name: mx.array(array) for name, array in weights.items()})
    pixels = np.random.default_rng(3).integers(0, 256, (9, 13, 3), dtype=np.uint8)

    def layer(x: np.ndarray, convolution: str, norm: str, stride: int = 1) -> np.ndarray:
        kernel = weights[f"{convolution}.weight"]
        out, into, size, _ = kernel.shape
        sides = [-(-side // stride) for side in x.shape[:2]]
        padding = [max((n - 1) * stride + size - side, 0) for n, side in zip(sides, x.shape[:2], strict=True)]
        x = np.pad(x, [(total // 2, total - total // 2) for total in padding] + [(0, 0)])
        found = np.empty((*sides, out))
        for row in range(sides[0]):
            for column in range(sides[1]):
                window = x[row * stride : row * stride + size, column * stride : column * stride + size]
                for channel in range(out):
                    seen = window if into > 1 else window[..., channel : channel + 1]
                    found[row, column, channel] = (seen * kernel[channel].transpose(1, 2, 0)).sum()
        names = ("running_mean", "running_var", "weight", "bias")
        mean, variance, scale, shift = (weights[f"{norm}.{name}"] for name in names)
        return (found - mean) / np.sqrt(variance + 1e-3) * scale + shift

    x = np.clip(layer((pixels - 127.0) / 128, "_conv_stem", "_bn0", 2), 0, 6)
    x = np.clip(layer(x, "_blocks.0._depthwise_conv", "_blocks.0._bn1"), 0, 6)
    expected = layer(x, "_blocks.0._project_conv", "_blocks.0._bn2")
    stem = mx.clip(
        efficientnet._convolved((mx.array(pixels).astype(mx.float32) - 127)[None] / 128, *network._stem, stride=2), 0, 6
    )
    assert np.abs(np.array(network._blocks[0](stem))[0] - expected).max() < 1e-4


def test_efficientnet_from_its_released_format(tmp_path: Path, tiny_model_folder: Path, picture: Path) -> None:
    weights, folder = random_efficientnet(), tmp_path / "weights"
    folder.mkdir()
    write_legacy(folder / "lite0.pth", weights)
    added = add_encoder(str(tiny_model_folder), str(folder), tmp_path / "out")
    assert (added.encoder, added.tokens, added.width) == ("efficientnet-lite0", 49, 1280)
    assert features(load_model(str(tmp_path / "out"), "fp32"), picture).shape == (49, 1280)
    whole = features(load_model(str(added.out), "fp32"), picture).reshape(7, 7, -1)
    few = add_encoder(str(tiny_model_folder), str(folder), tmp_path / "few", grid=2)
    assert few.tokens == 4
    # Four of seven rows each, the middle one in both.
    means = [whole[row : row + 4, column : column + 4].mean((0, 1)) for row in (0, 3) for column in (0, 3)]
    assert np.abs(features(load_model(str(few.out), "fp32"), picture) - means).max() < 1e-5
    with pytest.raises(InputError, match="1 to 7 features along a picture's side"):
        add_encoder(str(tiny_model_folder), str(folder), tmp_path / "again", grid=8)
    del weights["_bn1.bias"]
    write_legacy(folder / "lite0.pth", weights)
    with pytest.raises(InputError, match=r"_bn1\.bias is missing"):
        add_encoder(str(tiny_model_folder), str(folder), tmp_path / "again")


def test_what_cannot_be_added_is_refused(tmp_path: Path, tiny_model_folder: Path) -> None:
    model, seeing = str(tiny_model_folder), write_vision_folder(tmp_path / "vl", "qwen2_vl", tiny_model_folder)
    (tmp_path / "empty").mkdir()
    for source, encoder, said in (
        (model, "clip", "no such folder; give a folder, patches or efficientnet-lite0"),
        (model, str(tmp_path / "empty"), "holds 0 weight files"),
        (model, model, "not a model that sees"),
        (str(seeing), "patches", "sees already"),
    ):
        with pytest.raises(InputError, match=said):
            add_encoder(source, encoder, tmp_path / "out")
    with pytest.raises(InputError, match="exists already"):
        add_encoder(model, "patches", tmp_path / "empty")
    for encoder, grid in (("patches", 3), (str(seeing), 4)):
        with pytest.raises(InputError, match=f"`grid` {grid}: "):
            add_encoder(model, encoder, tmp_path / "out", grid=grid)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [({"encoder": "clip"}, "encoder 'clip' is not known"), ({"width": "wide"}, "damaged"), ({"patches": 3}, "damaged")],
)
def test_damaged_settings_are_named(tmp_path: Path, tiny_model_folder: Path, change: dict[str, Any], said: str) -> None:
    out = add_encoder(str(tiny_model_folder), "patches", tmp_path / "out").out
    file = out / "vision" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(InputError, match=said):
        load_model(str(out), "fp32")


def test_the_command_says_what_it_wrote(tmp_path: Path) -> None:
    arguments = ["vision", "add", "--encoder", "patches", "--out", str(tmp_path / "out"), "--json", "--quiet"]
    shown = CliRunner().invoke(commands, arguments)
    assert shown.exception is None
    document = json.loads(shown.stdout)
    assert (document["picture_tokens"], document["encoder"]) == (16, "patches")
    assert load_model(document["out"], "fp32").vision is not None
