"""Models that see, converted: the tower goes with the text model, dense and exact, or is named as left out."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from converters.convert import convert
from converters.fuse_folder import fuse
from converters.readers import open_checkpoint
from converters.verify import verify
from converters.vision_encoder import add_encoder
from converters.vision_tower import Written, read_tower
from converters.writers.target import Target
from mlx_loopai.config import LoraOptions
from mlx_loopai.data.images import given_picture
from mlx_loopai.data.sight import Sight
from mlx_loopai.errors import InputError, LoopaiError
from mlx_loopai.models.adapters import save_adapter
from mlx_loopai.models.load import LoadedModel, load_model
from mlx_loopai.models.lora import apply_lora
from mlx_loopai.models.vision.added import added_files
from tests.tiny_vision_folder import TOWERS, write_vision_folder

IDS = mx.array(np.random.default_rng(0).integers(3, 300, (1, 9)))
LAYOUTS = ("transformers", "old", "mlx")


def seen(loaded: LoadedModel, picture: Path) -> np.ndarray:
    """The features of the picture, and what they add to the states behind the first blocks."""
    assert loaded.vision is not None
    found = loaded.vision.features(*Sight(loaded.vision.settings).pixels(given_picture(picture)))
    parts = [found.features[None]] + ([] if found.deepstack is None else [found.deepstack])
    return np.array(mx.concatenate(parts))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("to", ["mlx", "hf"])
@pytest.mark.parametrize("family", TOWERS)
def test_the_whole_model_is_converted(
    family: str, to: str, layout: str, tmp_path: Path, tiny_model_folder: Path, picture: Path
) -> None:
    source = write_vision_folder(tmp_path / "vl", family, tiny_model_folder, layout)
    found = convert(source, tmp_path / "out", target=Target(to=to, dtype="fp32"), check=True)
    assert not any("left out" in note for note in found.notes)
    assert found.verification is not None
    assert found.verification.max_abs == 0
    assert any(group.startswith("visual.") for group in found.verification.groups)
    before, after = (load_model(str(folder), "fp32") for folder in (source, tmp_path / "out"))
    assert np.array_equal(np.array(before.model(IDS)), np.array(after.model(IDS)))
    assert np.array_equal(seen(before, picture), seen(after, picture))
    config = json.loads((tmp_path / "out/config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == family
    # Programs on MLX look for the older families' text fields at the top.
    assert ("text_config" in config) == ((layout != "old") and not (to == "mlx" and family != "qwen3_vl"))
    names = {name.split(".")[0] for name in mx.load(str(tmp_path / "out/model.safetensors"))}
    assert names == ({"language_model", "vision_tower"} if to == "mlx" else {"model", "lm_head"})


def test_the_tower_stays_dense_under_quantisation(tmp_path: Path, tiny_model_folder: Path, picture: Path) -> None:
    source = write_vision_folder(tmp_path / "vl", "qwen2_5_vl", tiny_model_folder)
    target = Target(quantize="4", group_size=32, dtype="fp32")
    found = convert(source, tmp_path / "small", target=target, check=True)
    assert found.verification is not None
    stored = mx.load(str(tmp_path / "small/model.safetensors"))
    assert any(name.endswith(".scales") for name in stored)
    assert not any(name.endswith(".scales") for name in stored if name.startswith("vision_tower."))
    before, small = (load_model(str(folder), "fp32") for folder in (source, tmp_path / "small"))
    assert np.array_equal(seen(before, picture), seen(small, picture))
    # And out of it again.
    convert(tmp_path / "small", tmp_path / "again", target=Target(to="hf", dtype="fp32"), check=True)
    again = load_model(str(tmp_path / "again"), "fp32")
    assert np.array_equal(seen(before, picture), seen(again, picture))
    assert np.abs(np.array(again.model(IDS)) - np.array(small.model(IDS))).max() < 1e-3


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("family", TOWERS)
def test_the_text_model_alone_on_request(family: str, layout: str, tmp_path: Path, tiny_model_folder: Path) -> None:
    source = write_vision_folder(tmp_path / "vl", family, tiny_model_folder, layout)
    found = convert(source, tmp_path / "out", target=Target(to="mlx", dtype="fp32", text_only=True), check=True)
    assert any("no part of the text model" in note for note in found.notes)
    assert found.verification is not None
    assert found.verification.unread
    seeing, text = (load_model(str(folder), "fp32") for folder in (source, tmp_path / "out"))
    assert text.vision is None
    assert np.array_equal(np.array(seeing.model(IDS)), np.array(text.model(IDS)))


def test_an_adapter_is_fused_into_a_model_that_goes_on_seeing(
    tmp_path: Path, tiny_model_folder: Path, picture: Path
) -> None:
    source = write_vision_folder(tmp_path / "vl", "qwen3_vl", tiny_model_folder)
    loaded = load_model(str(source), "fp32")
    options = LoraOptions(rank=2)
    for layer in apply_lora(loaded.model, options, seed=1).values():
        layer.lora_b = 0.1 * mx.random.normal(layer.lora_b.shape)
    save_adapter(tmp_path / "adapter", loaded.model, options, loaded.base_hash)
    fuse(tmp_path / "adapter", str(source), tmp_path / "fused", Target(dtype="fp32"))
    fused = load_model(str(tmp_path / "fused"), "fp32")
    assert np.allclose(np.array(fused.model(IDS)), np.array(loaded.model(IDS)), atol=1e-4)
    assert np.array_equal(seen(fused, picture), seen(loaded, picture))


def test_a_tower_that_lacks_a_tensor_is_refused_and_a_damaged_copy_found(
    tmp_path: Path, tiny_model_folder: Path
) -> None:
    source = write_vision_folder(tmp_path / "vl", "qwen2_vl", tiny_model_folder)
    tower = read_tower(open_checkpoint(source))
    assert tower is not None
    arrays = dict(mx.load(str(source / "model.safetensors")))
    mx.eval(arrays)
    name = next(name for name in arrays if "visual" in name and name.endswith("qkv.weight"))

    convert(source, tmp_path / "out", target=Target(to="hf", dtype="fp32"))
    written = dict(mx.load(str(tmp_path / "out/model.safetensors")))
    mx.eval(written)
    changed = written | {name: written[name] + 0.01}
    mx.save_safetensors(str(tmp_path / "out/model.safetensors"), changed, {"format": "pt"})
    with pytest.raises(LoopaiError, match="differs from"):
        verify(Written(open_checkpoint(source), tower), tmp_path / "out", lambda count: None)
    mx.save_safetensors(str(source / "model.safetensors"), {n: a for n, a in arrays.items() if n != name})
    with pytest.raises(InputError, match=r"vision tower: .*: blocks\.0\.attn\.qkv\.weight is missing"):
        convert(source, tmp_path / "other")


@pytest.mark.parametrize("to", ["mlx", "hf"])
def test_an_added_encoder_goes_with_its_text_model(
    to: str, tmp_path: Path, tiny_model_folder: Path, picture: Path
) -> None:
    tower = write_vision_folder(tmp_path / "vl", "qwen2_vl", tiny_model_folder)
    source = add_encoder(str(tiny_model_folder), str(tower), tmp_path / "seeing").out
    target = Target(to=to, quantize="4" if to == "mlx" else None, group_size=32 if to == "mlx" else None, dtype="fp32")
    found = convert(source, tmp_path / "out", target=target, check=True)
    assert not any("left out" in note for note in found.notes)
    listed = json.loads((tmp_path / "out/manifest.json").read_text(encoding="utf-8"))["files"]
    for name in ("config.json", "encoder.safetensors", "projector.safetensors"):
        assert (tmp_path / "out/vision" / name).read_bytes() == (source / "vision" / name).read_bytes()
        assert f"vision/{name}" in listed
    assert found.n_bytes == sum(path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.is_file())
    before, after = (load_model(str(folder), "fp32") for folder in (source, tmp_path / "out"))
    assert np.array_equal(seen(before, picture), seen(after, picture))
    (tmp_path / "out/vision/encoder.safetensors").write_bytes(b"other")
    with pytest.raises(LoopaiError, match=r"encoder\.safetensors: differs from"):
        verify(Written(open_checkpoint(source), None, added_files(source)), tmp_path / "out", lambda count: None)


@pytest.mark.parametrize("target", [Target(to="gguf", dtype="fp32"), Target(dtype="fp32", text_only=True)])
def test_an_added_encoder_that_is_left_out_is_named(tmp_path: Path, tiny_model_folder: Path, target: Target) -> None:
    source = add_encoder(str(tiny_model_folder), "patches", tmp_path / "seeing").out
    found = convert(source, tmp_path / "out", target=target)
    assert any("vision/ is left out" in note for note in found.notes)
    assert not (tmp_path / "out/vision").exists()


def test_an_added_encoder_that_is_not_whole_is_refused(tmp_path: Path, tiny_model_folder: Path) -> None:
    source = add_encoder(str(tiny_model_folder), "patches", tmp_path / "seeing").out
    (source / "vision/projector.safetensors").unlink()
    with pytest.raises(InputError, match=r"projector\.safetensors is missing; add the encoder again"):
        convert(source, tmp_path / "out")
