from __future__ import annotations

import json
from pathlib import Path

import mlx_loopai  # noqa: F401

# isort: split
import mlx.core as mx
import mlx.nn as nn
import mlx_lm.utils
import numpy as np
import pytest

from converters.convert import convert
from converters.fuse_folder import Permissions, fuse
from converters.writers.target import Target
from mlx_loopai.config import LoraOptions
from mlx_loopai.errors import InputError
from mlx_loopai.models.adapters import load_adapter, save_adapter
from mlx_loopai.models.load import load_model
from mlx_loopai.models.lora import apply_lora

IDS = mx.array(np.random.default_rng(0).integers(3, 300, (2, 9)))


def adapter(base: Path, folder: Path, size: float = 0.3) -> Path:
    loaded = load_model(str(base), "fp32")
    for layer in apply_lora(loaded.model, LoraOptions(rank=3, alpha=6.0, layers=1), seed=1).values():
        layer.lora_b = size * mx.random.normal(layer.lora_b.shape)
    save_adapter(folder, loaded.model, LoraOptions(rank=3, alpha=6.0, layers=1), loaded.base_hash)
    return folder


def test_fused_gives_the_adapters_logits(tiny_model_folder: Path, tmp_path: Path) -> None:
    folder = adapter(tiny_model_folder, tmp_path / "adapter")
    done = fuse(folder, str(tiny_model_folder), tmp_path / "out", Target())
    model = load_model(str(tiny_model_folder), "fp32").model
    load_adapter(model, folder)
    wanted = np.array(model(IDS))
    found = np.array(mlx_lm.utils.load(str(tmp_path / "out"))[0](IDS))
    assert np.allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())
    assert not done.widened
    assert all(survival.share == pytest.approx(1.0, abs=1e-4) for survival in done.survival.values())


@pytest.mark.parametrize("quantised_base", [True, False])
def test_a_small_update_gets_more_bits_and_allow_loss_keeps_them(
    tiny_model_folder: Path, tmp_path: Path, quantised_base: bool
) -> None:
    base = tiny_model_folder
    four = Target(quantize="4", group_size=32, dtype="fp32")
    if quantised_base:
        base = tmp_path / "base"
        convert(tiny_model_folder, base, target=four)
    folder = adapter(base, tmp_path / "adapter", size=0.004)
    target = Target() if quantised_base else four
    lossy = fuse(folder, str(base), tmp_path / "lossy", target, Permissions(allow_loss=True))
    kept = fuse(folder, str(base), tmp_path / "kept", target)
    assert not lossy.widened
    assert all(survival.form.startswith("affine 4 bits") for survival in lossy.survival.values())
    if not quantised_base:
        return
    # A quantised base sits on its grid: what is far below a step is lost, and the matrix gets more bits.
    assert min(survival.share for survival in lossy.survival.values()) < 0.5
    assert kept.widened
    assert min(survival.share for survival in kept.survival.values()) >= 0.9
    model = mlx_lm.utils.load(str(tmp_path / "kept"))[0]
    block = json.loads((tmp_path / "kept" / "config.json").read_text())["quantization"]
    for name in kept.widened:
        module = dict(model.named_modules())[name]
        bits = getattr(module, "bits", None)
        assert bits == 8 or isinstance(module, nn.Linear)
        assert (block.get(name) or {}).get("bits") == bits
    assert isinstance(model.layers[0].self_attn.q_proj, nn.QuantizedLinear)


def test_the_share_is_what_numpy_says(tiny_model_folder: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    convert(tiny_model_folder, base, target=Target(quantize="4", group_size=32, dtype="fp32"))
    folder = adapter(base, tmp_path / "adapter", size=0.02)
    done = fuse(folder, str(base), tmp_path / "out", Target(), Permissions(allow_loss=True))
    before = mlx_lm.utils.dequantize_model(mlx_lm.utils.load(str(base))[0])
    after = mlx_lm.utils.dequantize_model(mlx_lm.utils.load(str(tmp_path / "out"))[0])
    arrays = mx.load(str(folder / "adapters.safetensors"))
    for name, survival in done.survival.items():
        delta = 2.0 * np.array(arrays[f"{name}.lora_a"] @ arrays[f"{name}.lora_b"]).T
        moved = np.array(dict(after.named_modules())[name].weight) - np.array(dict(before.named_modules())[name].weight)
        assert survival.share == pytest.approx((moved * delta).sum() / (delta * delta).sum(), abs=1e-3)


def test_another_base_is_refused(tiny_model_folder: Path, tmp_path: Path) -> None:
    folder = adapter(tiny_model_folder, tmp_path / "adapter")
    convert(tiny_model_folder, tmp_path / "other", dtype="bf16")
    with pytest.raises(InputError, match="another base"):
        fuse(folder, str(tmp_path / "other"), tmp_path / "out", Target())
    assert fuse(folder, str(tmp_path / "other"), tmp_path / "out", Target(), Permissions(force=True)).survival


def test_rules_and_groups_are_those_of_convert(tiny_model_folder: Path, tmp_path: Path) -> None:
    folder = adapter(tiny_model_folder, tmp_path / "adapter")
    target = Target(quantize="4", group_size=32, keep=("lm_head=8bit",))
    fuse(folder, str(tiny_model_folder), tmp_path / "four", target, Permissions(allow_loss=True))
    block = json.loads((tmp_path / "four" / "config.json").read_text())["quantization"]
    assert (block["bits"], block["group_size"]) == (4, 32)
    assert block["model.embed_tokens"] == {"bits": 8, "group_size": 32, "mode": "affine"}
    # A quantised base keeps its forms but for what a rule names.
    again = adapter(tmp_path / "four", tmp_path / "again")
    fuse(again, str(tmp_path / "four"), tmp_path / "kept", Target(keep=("o_proj=bf16",)), Permissions(allow_loss=True))
    model = mlx_lm.utils.load(str(tmp_path / "kept"))[0]
    attention = model.layers[0].self_attn
    assert not isinstance(attention.o_proj, nn.QuantizedLinear)
    assert isinstance(attention.q_proj, nn.QuantizedLinear)
    assert attention.q_proj.bits == 4
    assert model.model.embed_tokens.bits == 8
