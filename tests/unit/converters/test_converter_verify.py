from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from converters import other_readers
from converters import verify as verify_module
from converters.convert import convert
from converters.names import expected_tensors
from converters.readers import open_checkpoint
from converters.streamed_model import logits
from converters.tensors import TensorEntry
from converters.verify import compare_weights, verify
from converters.vision_tower import Written
from converters.writers.target import Target
from mlx_loopai.errors import LoopaiError
from mlx_loopai.models.configuration import complete_configuration
from tests.tiny_files import write_tokenizer

Build = Callable[..., Path]
NEOX: dict[str, Any] = {
    "model_type": "gpt_neox",
    "vocab_size": 32,
    "hidden_size": 32,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "layer_norm_eps": 1e-5,
    "hidden_act": "gelu",
}


def ignore(count: int) -> None:
    pass


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_a_good_output(model_folder: Build, tmp_path: Path, dtype: str) -> None:
    calls: list[tuple[str, int, int]] = []
    done = convert(
        model_folder(), tmp_path / "out", dtype=dtype, check=True, on_progress=lambda *call: calls.append(call)
    )
    found = done.verification
    assert found is not None
    if dtype == "fp32":
        assert (found.max_abs, found.max_rel, found.logits_max_abs) == (0, 0, 0)
    else:
        bound = {"bf16": 2**-8, "fp16": 2**-11}[dtype]
        assert 0 < found.max_rel <= bound
        assert 0 < found.max_abs < 1.5 * bound
        assert 0 < found.logits_max_abs < 1
    assert found.groups["self_attn.q_proj"].max_abs <= found.max_abs
    assert found.groups.keys() >= {"embed_tokens", "norm", "lm_head", "mlp.down_proj", "input_layernorm"}
    assert {call[0] for call in calls} == {"write", "verify"}
    assert calls[-1][1] == calls[-1][2]


def flip(folder: Path, name: str) -> None:
    """Change the lowest exponent bit of the tensor's first weight."""
    path = folder / "model.safetensors"
    entry = next(e for e in open_checkpoint(folder).entries if e.name == name)
    content = bytearray(path.read_bytes())
    position = content.index(entry.load().tobytes())
    content[position + entry.n_bytes() // entry.n_elements - 1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_one_wrong_weight_is_found_and_named(model_folder: Build, tmp_path: Path, dtype: str) -> None:
    source, out = model_folder(), tmp_path / "out"
    convert(source, out, dtype=dtype)
    verify(Written(open_checkpoint(source)), out, ignore)
    flip(out, "model.layers.1.self_attn.q_proj.bias")
    with pytest.raises(LoopaiError, match=r"layers.1.self_attn.q_proj.bias: differs from .* more than rounding"):
        compare_weights(open_checkpoint(source), open_checkpoint(out), ignore)


def test_a_missing_tensor_is_found(model_folder: Build, tmp_path: Path) -> None:
    source = model_folder()
    convert(model_folder("tied", tie_word_embeddings=True), tmp_path / "out")
    with pytest.raises(LoopaiError, match=r"holds other tensors"):
        compare_weights(open_checkpoint(source), open_checkpoint(tmp_path / "out"), ignore)


def test_an_output_that_fails_never_gets_its_name(
    model_folder: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = verify_module.open_checkpoint

    def damaged(folder: Path) -> object:
        flip(folder, "model.norm.weight")
        return real(folder)

    monkeypatch.setattr(verify_module, "open_checkpoint", damaged)
    with pytest.raises(LoopaiError, match=r"the output was not kept"):
        convert(model_folder(), tmp_path / "out", check=True)
    assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_logits_that_are_not_finite_are_an_error(model_folder: Build, tmp_path: Path) -> None:
    source = model_folder()
    tensors = {entry.name: entry.load() for entry in open_checkpoint(source).entries}
    tensors["lm_head.weight"] = np.full_like(tensors["lm_head.weight"], 3e38)
    save_file(tensors, source / "model.safetensors")
    with pytest.raises(LoopaiError, match=r"not finite"):
        convert(source, tmp_path / "out", check=True)


def test_streamed_logits_are_those_of_the_whole_model(
    model_folder: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlx_loopai.models.load import load_model

    tokens = np.arange(20, dtype=np.int32)[None]
    for tied in (False, True):
        folder = model_folder(f"source-{tied}", tie_word_embeddings=tied)
        wanted = np.array(load_model(str(folder), dtype="fp32").model(tokens_array(tokens)))
        monkeypatch.setattr(TensorEntry.spans, "__defaults__", (300,))
        assert np.abs(logits(open_checkpoint(folder), tokens) - wanted).max() < 1e-5


def tokens_array(tokens: np.ndarray) -> Any:
    import mlx.core as mx

    return mx.array(tokens)


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
SCALINGS: dict[str, dict[str, Any]] = {
    "none": {},
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    "dynamic": {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
    "yarn": {"rope_scaling": YARN | {"attention_factor": 0.8, "beta_fast": 8.0}},
    "llama3": {"rope_scaling": {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}},
}


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama", "mistral"])
def test_our_own_reading_of_config_json_agrees(model_folder: Build, tmp_path: Path, kind: str, scaling: str) -> None:
    changes = SCALINGS[scaling] | {"model_type": kind} | ({"head_dim": 16} if kind == "qwen3" else {})
    if kind == "mistral":
        changes["sliding_window"] = 60 if scaling in ("none", "linear") else None
    done = convert(model_folder(**changes), tmp_path / "out", check=True)
    assert done.verification is not None
    assert 0 < done.verification.readings["config.json"] < 1e-4


def test_our_own_reading_of_gpt_neox_agrees(tmp_path: Path) -> None:
    config = NEOX | {"rope_parameters": {"rope_theta": 700.0, "partial_rotary_factor": 0.5}}
    folder = write_tokenizer(tmp_path / "source")
    (folder / "config.json").write_text(json.dumps(config))
    complete = complete_configuration(config, "here") | {"tie_word_embeddings": False}
    rng = np.random.default_rng(0)
    shapes = expected_tensors(complete)
    save_file({n: rng.normal(0, 0.2, s).astype(np.float32) for n, s in shapes.items()}, folder / "model.safetensors")
    done = convert(folder, tmp_path / "out", check=True)
    assert done.verification is not None
    assert 0 < done.verification.readings["config.json"] < 1e-4


@pytest.mark.parametrize(
    "written", [{"rope_scaling": None}, {"rope_scaling": YARN}, {"rope_theta": 4000.0}, {"rms_norm_eps": 0.1}]
)
def test_a_key_that_the_output_lost_fails_although_every_weight_agrees(
    model_folder: Build, tmp_path: Path, written: dict[str, Any]
) -> None:
    """It once printed a logit difference of 0.9, "verified", and exit status 0."""
    source = model_folder(rope_scaling=YARN | {"beta_fast": 4.0, "beta_slow": 2.0, "attention_factor": 1.0})
    convert(source, tmp_path / "out")
    path = tmp_path / "out/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | written))
    with pytest.raises(LoopaiError, match=r"a key of the configuration is read differently"):
        verify(Written(open_checkpoint(source)), tmp_path / "out", ignore)


def test_a_mistake_that_our_configuration_shares_is_found_by_the_other_reading(
    model_folder: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the attention factor were still dropped on the way in: both models of mlx-lm would agree."""
    from mlx_loopai.models import rope

    monkeypatch.setattr(rope, "_yarn", lambda found, factor, where: {})
    source = model_folder(rope_scaling=YARN | {"attention_factor": 0.5})
    with pytest.raises(LoopaiError, match=r"what its config.json means"):
        convert(source, tmp_path / "out", check=True)
    assert not (tmp_path / "out").exists()


def test_angles_beyond_the_probed_text_are_compared(
    model_folder: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scaling = {"rope_type": "dynamic", "factor": 2.0}
    source = model_folder(rope_scaling=scaling, max_position_embeddings=4096)
    convert(source, tmp_path / "out")
    path = tmp_path / "out/config.json"
    wrong = {"rope_scaling": scaling | {"factor": 3.0}}
    path.write_text(json.dumps(json.loads(path.read_text()) | wrong))
    with pytest.raises(LoopaiError, match=r"rotary angles at position"):
        verify(Written(open_checkpoint(source)), tmp_path / "out", ignore)


def test_tensors_that_nothing_reads_are_named(model_folder: Build, tmp_path: Path) -> None:
    source = model_folder(tie_word_embeddings=True)
    tensors = load_file(source / "model.safetensors")
    buffer = "model.layers.0.self_attn.rotary_emb.inv_freq"
    tensors |= {"lm_head.weight": tensors["model.embed_tokens.weight"], buffer: np.ones(4, np.float32)}
    save_file(tensors, source / "model.safetensors")
    found = convert(source, tmp_path / "out", check=True).verification
    assert found is not None
    assert sorted(found.unread) == ["lm_head.weight", buffer]


@pytest.mark.parametrize("form", [{"dtype": "fp32"}, {"dtype": "bf16"}, {"quantize": "q8_0"}])
def test_llama_cpp_computes_the_same_from_a_gguf_file(tiny_model_folder: Path, tmp_path: Path, form: Any) -> None:
    pytest.importorskip("llama_cpp")
    found = convert(tiny_model_folder, tmp_path / "m.gguf", target=Target(to="gguf", **form), check=True).verification
    assert found is not None
    assert 0 < found.readings["llama.cpp"] < 2


def test_llama_cpp_finds_a_file_that_says_something_else(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("llama_cpp")
    real = other_readers.llama_cpp_logits
    monkeypatch.setattr(other_readers, "llama_cpp_logits", lambda output, tokens: real(output, tokens[::-1].copy()))
    with pytest.raises(LoopaiError, match=r"from those of llama.cpp"):
        convert(tiny_model_folder, tmp_path / "m.gguf", target=Target(to="gguf"), check=True)
