from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_loopai.errors import InputError
from mlx_loopai.models.load import NANO_FOLDER, default_dtype, hash_base, load_model, load_tokenizer, resolve_model

IDS = mx.array(np.random.default_rng(0).integers(3, 300, (2, 9)))


@pytest.fixture
def own(tiny_model_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may damage."""
    return Path(shutil.copytree(tiny_model_folder, tmp_path / "own"))


def configure(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def test_nano_and_folders_resolve(tiny_model_folder: Path) -> None:
    assert resolve_model("nano") == NANO_FOLDER
    assert resolve_model(str(tiny_model_folder)) == tiny_model_folder


@pytest.mark.parametrize("model", ["nowhere", "./nowhere/model", "/nowhere/model", "~/nowhere-at-all", "a/b/c"])
def test_a_missing_folder_is_refused(model: str) -> None:
    with pytest.raises(InputError, match="no such folder"):
        resolve_model(model)


def test_a_file_is_no_model_folder(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.touch()
    with pytest.raises(InputError, match="mlx-loopai convert"):
        resolve_model(str(file))


@pytest.mark.parametrize("model", ["-bad/..name", "a b/c"])
def test_an_impossible_hub_id_is_refused(model: str) -> None:
    with pytest.raises(InputError, match="no such folder; give nano, a folder, or a hub id"):
        resolve_model(model)


def test_without_a_network_a_hub_id_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # HF_HUB_OFFLINE is set for all tests: the hub's client answers as it does without a connection.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"owner/model: .*hub cannot be reached.*give a folder"):
        resolve_model("owner/model")


@pytest.mark.parametrize("error", [ConnectionError("no route"), TimeoutError("slow"), OSError(101, "unreachable")])
def test_a_failing_connection_is_refused(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(InputError, match="hub cannot be reached"):
        resolve_model("owner/model")


def test_a_full_disk_while_downloading_is_not_called_a_network_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(OSError, match="No space left"):
        resolve_model("owner/model")


@pytest.mark.parametrize(("name", "dtype"), [("fp32", mx.float32), ("bf16", mx.bfloat16), ("fp16", mx.float16)])
def test_weights_are_cast(tiny_model_folder: Path, name: str, dtype: mx.Dtype) -> None:
    loaded = load_model(str(tiny_model_folder), name)
    assert {array.dtype for _, array in tree_flatten(loaded.model.parameters())} == {dtype}
    assert loaded.model(IDS).dtype == dtype
    assert not loaded.model.training


def test_auto_is_fp32_off_metal_and_bf16_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for available, name in ((False, "fp32"), (True, "bf16")):
        monkeypatch.setattr(mx.metal, "is_available", lambda available=available: available)
        assert default_dtype() == name


def test_the_base_can_be_quantised_while_it_is_read(own: Path) -> None:
    configure(own, hidden_size=64, intermediate_size=64)
    from mlx_loopai.models.load import build_model

    config = json.loads((own / "config.json").read_text(encoding="utf-8"))
    mx.save_safetensors(str(own / "model.safetensors"), dict(tree_flatten(build_model(config).parameters())))
    layer = load_model(str(own), "fp32", quantize_bits=4).model.layers[0].self_attn.q_proj
    assert layer.bits == 4
    assert layer.scales.dtype == mx.float32


def test_the_hash_changes_with_one_byte_and_not_with_the_dtype(own: Path) -> None:
    before = hash_base(own)
    assert load_model(str(own), "fp32").base_hash == load_model(str(own), "bf16").base_hash == before
    weights = own / "model.safetensors"
    content = bytearray(weights.read_bytes())
    for place in (len(content) - 1, len(content) // 2):
        changed = bytearray(content)
        changed[place] ^= 1
        weights.write_bytes(changed)
        assert hash_base(own) != before
    weights.write_bytes(content)
    assert hash_base(own) == before
    configure(own, rope_theta=20000.0)
    assert hash_base(own) != before


def test_the_hash_does_not_depend_on_the_folder(own: Path, tiny_model_folder: Path) -> None:
    assert hash_base(own) == hash_base(tiny_model_folder)


def test_code_in_a_model_folder_is_never_run(own: Path) -> None:
    marker = own / "it_ran"
    (own / "model.py").write_text(f"open({str(marker)!r}, 'w')", encoding="utf-8")
    configure(own, model_file="model.py", auto_map={"AutoTokenizer": ["model.Tokenizer", None]})
    with pytest.raises(InputError, match=r"model\.py") as caught:
        load_model(str(own), "fp32")
    assert "trust_remote_code" not in str(caught.value)
    assert not marker.exists()


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_an_input_error(own: Path, missing: str) -> None:
    (own / missing).unlink()
    with pytest.raises(InputError, match=str(own)):
        load_model(str(own), "fp32")


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "generation_config.json"])
def test_a_broken_tokenizer_is_an_input_error(own: Path, name: str) -> None:
    (own / name).write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=str(own)):
        load_tokenizer(own)


def test_truncated_weights_are_an_input_error(own: Path) -> None:
    weights = own / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(InputError, match="cannot open"):
        load_model(str(own), "fp32")


def test_weights_of_another_shape_are_an_input_error(own: Path) -> None:
    configure(own, num_hidden_layers=3)
    with pytest.raises(InputError, match="cannot open"):
        load_model(str(own), "fp32")


def test_the_end_tokens_come_from_the_generation_config(own: Path) -> None:
    assert set(load_tokenizer(own).eos_token_ids) == {0, 2}
    (own / "generation_config.json").unlink()
    assert set(load_tokenizer(own).eos_token_ids) == {2}
