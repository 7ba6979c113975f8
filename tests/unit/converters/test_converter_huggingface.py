from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from converters.names import EMBEDDING, HEAD
from converters.readers import open_checkpoint
from converters.readers.huggingface import INDEX
from mlx_loopai.errors import InputError

Build = Callable[..., Path]


def shard(folder: Path) -> dict[str, str]:
    """Split the folder's one file into two shards with an index; returns the weight map."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    halves = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, part in halves.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    weight_map = {name: file for file, part in halves.items() for name in part}
    write_index(folder, weight_map)
    return weight_map


def write_index(folder: Path, weight_map: Any) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}), encoding="utf-8")


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes), encoding="utf-8")


@pytest.mark.parametrize("sharded", [False, True])
def test_every_tensor_is_read(model_folder: Build, config: dict[str, Any], make_tensors: Any, sharded: bool) -> None:
    folder = model_folder()
    if sharded:
        shard(folder)
    checkpoint = open_checkpoint(folder)
    wanted = make_tensors(config)
    assert {entry.name for entry in checkpoint.entries} == wanted.keys()
    assert all(np.array_equal(entry.load(), wanted[entry.name]) for entry in checkpoint.entries)
    assert checkpoint.dtype == "F32"
    assert checkpoint.generation_config == {"eos_token_id": [28, 26]}
    assert {path.name for path in checkpoint.tokenizer_files} == {"tokenizer.json", "tokenizer_config.json"}


def test_a_tied_model_loses_its_copy_of_the_head_and_buffers(model_folder: Build) -> None:
    folder = model_folder()
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)
    tensors[HEAD] = tensors[EMBEDDING]
    save_file(tensors, folder / "model.safetensors")
    change_config(folder, tie_word_embeddings=True)
    names = {entry.name for entry in open_checkpoint(folder).entries}
    assert HEAD not in names
    assert names == tensors.keys() - {HEAD, "model.layers.0.self_attn.rotary_emb.inv_freq"}


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "a/../../b", "..\\b", "C:x", "", 3, None])
def test_an_index_must_not_leave_the_folder(model_folder: Build, name: Any) -> None:
    folder = model_folder()
    write_index(folder, shard(folder) | {"model.norm.weight": name})
    with pytest.raises(InputError, match=r"not inside the folder"):
        open_checkpoint(folder)


def test_missing_shards_are_named(model_folder: Build) -> None:
    folder = model_folder()
    shard(folder)
    (folder / "model-2.safetensors").unlink()
    with pytest.raises(InputError, match=r"the shards model-2.safetensors are missing"):
        open_checkpoint(folder)


def test_duplicate_tensors_and_broken_promises(model_folder: Build) -> None:
    folder = model_folder()
    weight_map = shard(folder)
    write_index(folder, weight_map | {"model.ghost.weight": "model-1.safetensors"})
    with pytest.raises(InputError, match=r"no shard holds: 'model.ghost.weight'"):
        open_checkpoint(folder)
    second = load_file(folder / "model-2.safetensors")
    save_file(
        load_file(folder / "model-1.safetensors") | dict([next(iter(second.items()))]), folder / "model-1.safetensors"
    )
    with pytest.raises(InputError, match=r"is also in"):
        open_checkpoint(folder)


@pytest.mark.parametrize("weight_map", [None, [], {}, 5])
def test_an_index_without_a_map(model_folder: Build, weight_map: Any) -> None:
    folder = model_folder()
    write_index(folder, weight_map)
    with pytest.raises(InputError, match=r"no weight_map"):
        open_checkpoint(folder)


def test_folders_that_are_no_model(model_folder: Build, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match=r"has no config.json"):
        open_checkpoint(empty)
    folder = model_folder()
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"holds no model.safetensors"):
        open_checkpoint(folder)
    (folder / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(InputError, match=r"damaged archive"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    "content", ["", "{", "[1]", "\ud800".encode("utf-8", "surrogatepass").decode("latin1"), "null"]
)
def test_a_broken_config(model_folder: Build, content: str) -> None:
    folder = model_folder()
    (folder / "config.json").write_text(content, encoding="latin1")
    with pytest.raises(InputError, match=r"config\.json"):
        open_checkpoint(folder)


def test_the_configuration_of_another_model(model_folder: Build) -> None:
    folder = model_folder()
    change_config(folder, hidden_size=64)
    with pytest.raises(InputError, match=r"model.embed_tokens.weight has the shape \[32, 32\] .* \[32, 64\]"):
        open_checkpoint(folder)


def test_an_unsupported_architecture_is_named_before_the_weights_are_looked_at(model_folder: Build) -> None:
    folder = model_folder()
    (folder / "model.safetensors").unlink()
    change_config(folder, model_type="mamba")
    with pytest.raises(
        InputError, match=r"'mamba' is not supported; supported are exaone4, gemma3_text, gpt_neox, llama"
    ):
        open_checkpoint(folder)


def test_one_safetensors_file_points_to_its_folder(model_folder: Build) -> None:
    with pytest.raises(InputError, match=r"give its folder"):
        open_checkpoint(model_folder() / "model.safetensors")


def test_a_head_of_its_own_is_kept_although_the_configuration_ties_it(model_folder: Build) -> None:
    """transformers ties only what a file does not hold; the head was lost here, and verified."""
    folder = model_folder(tie_word_embeddings=True)
    tensors = load_file(folder / "model.safetensors")
    tensors[HEAD] = tensors[EMBEDDING] + 1
    save_file(tensors, folder / "model.safetensors")
    checkpoint = open_checkpoint(folder)
    assert checkpoint.config["tie_word_embeddings"] is False
    assert HEAD in {entry.name for entry in checkpoint.entries}
    assert any("lm_head.weight is not the embedding's copy" in note for note in checkpoint.notes)


def test_a_missing_head_of_an_untied_model_is_not_invented(model_folder: Build) -> None:
    folder = model_folder(tie_word_embeddings=True)
    change_config(folder, tie_word_embeddings=False)
    with pytest.raises(InputError, match=r"lm_head.weight is missing"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("wrap", "prefix"),
    [
        ("_orig_mod.{}", "_orig_mod."),
        ("module.{}", "module."),
        ("base_model.model.{}", "base_model.model."),
        ("module._orig_mod.{}", "_orig_mod., module."),
        ("model.{}", "model."),
    ],
)
def test_the_prefix_of_a_wrapper_is_taken_off_and_named(model_folder: Build, wrap: str, prefix: str) -> None:
    folder = model_folder()
    tensors = load_file(folder / "model.safetensors")
    save_file({wrap.format(name): tensor for name, tensor in tensors.items()}, folder / "model.safetensors")
    checkpoint = open_checkpoint(folder)
    assert {entry.name for entry in checkpoint.entries} == tensors.keys()
    assert checkpoint.notes == (f"tensor names began with {prefix}, which was taken off",)


def test_wrappers_within_a_name_are_taken_off_too(model_folder: Build) -> None:
    folder = model_folder()
    tensors = load_file(folder / "model.safetensors")
    inner = {name.replace(".self_attn.", "._checkpoint_wrapped_module.self_attn."): t for name, t in tensors.items()}
    save_file(inner, folder / "model.safetensors")
    assert {entry.name for entry in open_checkpoint(folder).entries} == tensors.keys()


def test_an_adapter_that_is_not_merged_is_refused_by_name(model_folder: Build) -> None:
    folder = model_folder()
    tensors = load_file(folder / "model.safetensors")
    tensors = {
        f"base_model.model.{name.replace('q_proj.', 'q_proj.base_layer.')}": tensor for name, tensor in tensors.items()
    }
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"adapter that is not merged.*merge_and_unload"):
        open_checkpoint(folder)


@pytest.mark.parametrize("method", ["awq", "gptq", "fp8", "bitsandbytes", "compressed-tensors"])
def test_weights_that_another_tool_quantised_are_refused_by_its_name(model_folder: Build, method: str) -> None:
    folder = model_folder()
    change_config(folder, quantization_config={"quant_method": method})
    with pytest.raises(InputError, match=rf"already quantised by {method}"):
        open_checkpoint(folder)
    change_config(folder, quantization_config=None)
    (folder / "hf_quant_config.json").write_text("{}")
    with pytest.raises(InputError, match=r"ModelOpt"):
        open_checkpoint(folder)
