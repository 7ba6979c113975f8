from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx_lm.utils
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import linear_to_lora_layers

from mlx_loopai.config import LoraOptions
from mlx_loopai.errors import InputError
from mlx_loopai.models.adapters import CONFIG_FILE, WEIGHTS_FILE, adapter_arrays, load_adapter, save_adapter
from mlx_loopai.models.load import LoadedModel, load_model
from mlx_loopai.models.lora import apply_lora, lora_modules

IDS = mx.array(np.random.default_rng(0).integers(3, 300, (2, 9)))
OPTIONS = [
    LoraOptions(rank=3, alpha=7.0),
    LoraOptions(rank=5, alpha=4.0, rslora=True, dropout=0.5),
    LoraOptions(rank=2, targets=("q_proj", "down_proj"), layers=1),
]


def tuned(folder: Path, options: LoraOptions) -> LoadedModel:
    """The tiny model with an adapter that does something."""
    loaded = load_model(str(folder), "fp32")
    for layer in apply_lora(loaded.model, options, seed=1).values():
        layer.lora_b = 0.3 * mx.random.normal(layer.lora_b.shape)
    return loaded


def saved(model_folder: Path, folder: Path, options: LoraOptions | None = None) -> tuple[LoadedModel, Path]:
    options = options or OPTIONS[0]
    loaded = tuned(model_folder, options)
    save_adapter(folder, loaded.model, options, loaded.base_hash, system_prompt="친절하게")
    return loaded, folder


def logits(model: nn.Module) -> np.ndarray:
    return np.array(model(IDS))


def edit(folder: Path, **changes: Any) -> None:
    path = folder / CONFIG_FILE
    config = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}), encoding="utf-8")


@pytest.mark.parametrize("options", OPTIONS)
def test_what_is_saved_is_what_is_loaded(tiny_model_folder: Path, tmp_path: Path, options: LoraOptions) -> None:
    loaded, folder = saved(tiny_model_folder, tmp_path / "adapter", options)
    other = load_model(str(tiny_model_folder), "fp32")
    assert load_adapter(other.model, folder, other.base_hash) == options
    expected = adapter_arrays(loaded.model)
    found = adapter_arrays(other.model)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(np.array(found[name]), np.array(expected[name])) for name in expected)
    assert np.array_equal(logits(other.model), logits(loaded.model))


@pytest.mark.parametrize("options", OPTIONS)
def test_mlx_lm_loads_it_with_equal_logits(tiny_model_folder: Path, tmp_path: Path, options: LoraOptions) -> None:
    loaded, folder = saved(tiny_model_folder, tmp_path / "adapter", options)
    model = mlx_lm.utils.load(str(tiny_model_folder), adapter_path=str(folder))[0]
    found = {name for name, _ in tree_flatten(model.parameters()) if name.endswith((".lora_a", ".lora_b"))}
    assert found == set(adapter_arrays(loaded.model))
    assert np.allclose(logits(model), logits(loaded.model), atol=1e-5)


@pytest.mark.parametrize("keys", [None, ["self_attn.q_proj", "mlp.up_proj"]])
@pytest.mark.parametrize("num_layers", [-1, 1, 2])
def test_an_adapter_of_mlx_lm_loads_here(
    tiny_model_folder: Path, tmp_path: Path, keys: list[str] | None, num_layers: int
) -> None:
    model = load_model(str(tiny_model_folder), "fp32").model
    parameters: dict[str, Any] = {"rank": 3, "scale": 20.0, "dropout": 0.0} | ({"keys": keys} if keys else {})
    linear_to_lora_layers(model, num_layers, dict(parameters))
    mx.random.seed(4)
    arrays = {
        name: 0.1 * mx.random.normal(array.shape)
        for name, array in tree_flatten(model.parameters())
        if name.endswith((".lora_a", ".lora_b"))
    }
    model.load_weights(list(arrays.items()), strict=False)
    mx.save_safetensors(str(tmp_path / WEIGHTS_FILE), arrays)
    config = {"fine_tune_type": "lora", "num_layers": num_layers, "lora_parameters": parameters}
    (tmp_path / CONFIG_FILE).write_text(json.dumps(config), encoding="utf-8")
    ours = load_model(str(tiny_model_folder), "fp32")
    options = load_adapter(ours.model, tmp_path, ours.base_hash)
    assert options.rank == 3
    assert options.alpha == 60.0
    assert np.allclose(logits(ours.model), logits(model), atol=1e-4)


def test_the_configuration_says_what_mlx_lm_and_merging_need(tiny_model_folder: Path, tmp_path: Path) -> None:
    loaded, folder = saved(tiny_model_folder, tmp_path / "adapter", OPTIONS[1])
    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    assert config["lora_parameters"]["scale"] == pytest.approx(4.0 / 5**0.5)
    assert config["lora_parameters"]["rank"] == 5
    assert config["num_layers"] == 2
    assert config["mlx_loopai"]["base_hash"] == loaded.base_hash
    assert config["mlx_loopai"]["system_prompt"] == "친절하게"
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", CONFIG_FILE, WEIGHTS_FILE]


def test_another_base_is_refused(tiny_model_folder: Path, tmp_path: Path) -> None:
    loaded, folder = saved(tiny_model_folder, tmp_path / "adapter")
    with pytest.raises(InputError, match="another base") as caught:
        load_adapter(load_model(str(tiny_model_folder), "fp32").model, folder, "0" * 64)
    assert loaded.base_hash[:12] in str(caught.value)


def test_shapes_that_do_not_fit_are_listed(tiny_model_folder: Path, tmp_path: Path) -> None:
    _, folder = saved(tiny_model_folder, tmp_path / "adapter")
    arrays = mx.load(str(folder / WEIGHTS_FILE))
    name = "model.layers.0.self_attn.q_proj.lora_a"
    mx.eval(arrays)
    arrays[name] = mx.zeros((31, 3))
    arrays["model.layers.7.mlp.up_proj.lora_a"] = mx.zeros((1, 1))
    del arrays["model.layers.1.mlp.up_proj.lora_b"]
    mx.save_safetensors(str(folder / WEIGHTS_FILE), arrays)
    with pytest.raises(InputError, match="does not fit") as caught:
        load_adapter(load_model(str(tiny_model_folder), "fp32").model, folder)
    for part in (f"{name} is (31, 3)", "unexpected model.layers.7", "missing model.layers.1.mlp.up_proj.lora_b"):
        assert part in str(caught.value)


def test_a_folder_without_an_adapter_is_refused(tiny_model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no adapter here"):
        load_adapter(load_model(str(tiny_model_folder), "fp32").model, tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"not safetensors at all, but long enough to read a header"])
def test_damaged_weights_are_refused(tiny_model_folder: Path, tmp_path: Path, content: bytes | None) -> None:
    _, folder = saved(tiny_model_folder, tmp_path / "adapter")
    (folder / WEIGHTS_FILE).unlink()
    if content is not None:
        (folder / WEIGHTS_FILE).write_bytes(content)
    with pytest.raises(InputError, match=r"adapters\.safetensors: cannot be read"):
        load_adapter(load_model(str(tiny_model_folder), "fp32").model, folder)


@pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b"\xff\xfe", b'{"lora_parameters": 3}'])
def test_a_broken_configuration_is_refused(tiny_model_folder: Path, tmp_path: Path, content: bytes) -> None:
    _, folder = saved(tiny_model_folder, tmp_path / "adapter")
    (folder / CONFIG_FILE).write_bytes(content)
    with pytest.raises(InputError, match="adapter"):
        load_adapter(load_model(str(tiny_model_folder), "fp32").model, folder)


@pytest.mark.parametrize(
    "parameters",
    [{"scale": 2.0}, {"rank": 3}, {"rank": 0, "scale": 2.0}, {"rank": "three", "scale": 2.0}, {"rank": 3, "scale": 0}],
)
def test_absurd_options_are_refused(tiny_model_folder: Path, tmp_path: Path, parameters: dict[str, Any]) -> None:
    _, folder = saved(tiny_model_folder, tmp_path / "adapter")
    edit(folder, mlx_loopai=None, lora_parameters=parameters)
    with pytest.raises(InputError, match="lora_parameters"):
        load_adapter(load_model(str(tiny_model_folder), "fp32").model, folder)


def test_dora_and_full_fine_tunes_are_refused(tiny_model_folder: Path, tmp_path: Path) -> None:
    _, folder = saved(tiny_model_folder, tmp_path / "adapter")
    edit(folder, mlx_loopai=None, fine_tune_type="dora")
    with pytest.raises(InputError, match="dora"):
        load_adapter(load_model(str(tiny_model_folder), "fp32").model, folder)


def test_a_failed_save_leaves_the_older_adapter(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, folder = saved(tiny_model_folder, tmp_path / "adapter")
    before = (folder / WEIGHTS_FILE).read_bytes()
    for layer in lora_modules(loaded.model).values():
        layer.lora_b = layer.lora_b + 1

    def full(path: str, *_: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device", path)

    monkeypatch.setattr(mx, "save_safetensors", full)
    with pytest.raises(OSError, match="No space"):
        save_adapter(folder, loaded.model, OPTIONS[0], loaded.base_hash)
    assert (folder / WEIGHTS_FILE).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_a_real_full_disk_is_an_os_error(tiny_model_folder: Path, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    from mlx_loopai.models.adapters import save_arrays

    os.symlink("/dev/full", tmp_path / "full.safetensors")
    with pytest.raises(OSError, match="No space left"):
        save_arrays(tmp_path / "full.safetensors", {"a": mx.zeros((100, 100))})


def test_a_new_adapter_replaces_the_old_one_and_nothing_stays_beside_it(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    loaded, folder = saved(tiny_model_folder, tmp_path / "adapter")
    first = (folder / WEIGHTS_FILE).read_bytes()
    for layer in lora_modules(loaded.model).values():
        layer.lora_b = layer.lora_b + 1
    save_adapter(folder, loaded.model, OPTIONS[0], loaded.base_hash)
    assert (folder / WEIGHTS_FILE).read_bytes() != first
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


@pytest.mark.parametrize("bits", [0, 4, 8])
def test_mlx_lm_opens_a_dora_adapter(tiny_model_folder: Path, tmp_path: Path, bits: int) -> None:
    """Where it can: it counts the inputs of 3-, 5- and 6-bit layers wrongly and refuses them."""
    from mlx_lm.tuner.utils import load_adapters

    def base() -> nn.Module:
        model = load_model(str(tiny_model_folder), "fp32").model
        if bits:
            nn.quantize(model, group_size=32, bits=bits)
        return model

    options = LoraOptions(rank=3, alpha=6.0, dora=True, layers=1)
    model = base()
    for layer in apply_lora(model, options, seed=1).values():
        layer.lora_b = 0.2 * mx.random.normal(layer.lora_b.shape)
        layer.m = layer.m * 1.1
    save_adapter(tmp_path / "adapter", model, options, "hash")
    ids = mx.array([[5, 9, 33, 7]])
    expected = np.array(model(ids))
    theirs = load_adapters(base(), str(tmp_path / "adapter"))
    assert np.allclose(np.array(theirs(ids)), expected, atol=2e-4)
    again = base()
    assert load_adapter(again, tmp_path / "adapter").dora
    assert np.array_equal(np.array(again(ids)), expected)
