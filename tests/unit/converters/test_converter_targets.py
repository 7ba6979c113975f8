"""Every form that `convert` writes, read back by the programs it is meant for and by ourselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx_loopai  # noqa: F401

# isort: split
import gguf
import mlx.core as mx
import mlx.nn as nn
import mlx_lm.utils
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx.utils import tree_flatten
from safetensors.numpy import load_file

from converters.convert import Source, convert
from converters.quantization import Scheme, parse_rules, scheme_of
from converters.readers import open_checkpoint
from converters.tensors import TensorEntry, to_float32
from converters.writers import mlx as mlx_writer
from converters.writers.target import Target
from mlx_loopai.errors import InputError, LoopaiError

FORMS = [("2", 32), ("3", 32), ("4", 32), ("5", 32), ("6", 32), ("8", 32), ("mxfp4", 32), ("mxfp8", 32), ("nvfp4", 16)]


def values(source: Path) -> dict[str, np.ndarray]:
    return {entry.name: to_float32(entry.load(), entry.dtype) for entry in open_checkpoint(source).entries}


def equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def parameters(model: nn.Module) -> dict[str, mx.array]:
    return tree_flatten(model.parameters(), destination={})


def target(word: str, group: int, *keep: str, dtype: str = "bf16") -> Target:
    return Target(dtype=dtype, quantize=word, group_size=group if word.isdecimal() else None, keep=keep)


@pytest.mark.parametrize(("word", "group"), FORMS)
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_a_quantised_folder_is_what_mlx_lm_makes(
    tiny_model_folder: Path, tmp_path: Path, word: str, group: int, dtype: str, capsys: Any
) -> None:
    convert(tiny_model_folder, tmp_path / "dense", dtype=dtype)
    convert(tiny_model_folder, tmp_path / "out", target=target(word, group, dtype=dtype))
    wanted, config = mlx_lm.utils.load(str(tmp_path / "dense"), return_config=True)[::2]
    scheme = scheme_of(word, group)
    wanted, config = mlx_lm.utils.quantize_model(wanted, config, group, scheme.bits, scheme.mode)
    model = mlx_lm.utils.load(str(tmp_path / "out"))[0]
    found, expected = parameters(model), parameters(wanted)
    assert found.keys() == expected.keys()
    assert all(found[name].dtype == expected[name].dtype for name in found)
    assert all(mx.array_equal(found[name], expected[name]) for name in found)
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["quantization"] == config["quantization"] == written["quantization_config"]


def test_rules_keep_layers_as_they_are_asked_to(tiny_model_folder: Path, tmp_path: Path) -> None:
    rules = ("lm_head=8bit", "layers.0.*=bf16", "layers.0.mlp.up_proj=mxfp4")
    convert(tiny_model_folder, tmp_path / "out", target=target("4", 32, *rules))
    model = mlx_lm.utils.load(str(tmp_path / "out"))[0]
    assert (model.model.embed_tokens.bits, model.model.embed_tokens.group_size) == (8, 32)
    first, second = model.layers
    assert isinstance(first.self_attn.q_proj, nn.Linear)
    assert first.self_attn.q_proj.weight.dtype == mx.bfloat16
    assert first.mlp.up_proj.mode == "mxfp4"
    assert (second.mlp.up_proj.bits, second.mlp.up_proj.mode) == (4, "affine")
    block = json.loads((tmp_path / "out" / "config.json").read_text())["quantization"]
    assert set(block) == {"bits", "group_size", "mode", "model.embed_tokens", "model.layers.0.mlp.up_proj"}


@pytest.mark.parametrize("to", ["mlx", "hf"])
@pytest.mark.parametrize(("word", "group"), [("4", 32), ("mxfp8", 32)])
def test_a_quantised_folder_converts_back_to_its_dequantised_values(
    tiny_model_folder: Path, tmp_path: Path, word: str, group: int, to: str
) -> None:
    convert(tiny_model_folder, tmp_path / "small", target=target(word, group, dtype="fp32"))
    convert(tmp_path / "small", tmp_path / "dense", target=Target(to=to, dtype="fp32"))
    model = mlx_lm.utils.dequantize_model(mlx_lm.utils.load(str(tmp_path / "small"))[0])
    found = load_file(tmp_path / "dense" / "model.safetensors")
    expected = parameters(model)
    assert found.keys() == expected.keys()
    assert all(
        np.allclose(found[name], np.array(expected[name].astype(mx.float32)), rtol=1e-6, atol=1e-7) for name in found
    )
    assert "quantization" not in json.loads((tmp_path / "dense" / "config.json").read_text())


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_gguf_and_back_gives_the_same_tensors(tiny_model_folder: Path, tmp_path: Path, dtype: str) -> None:
    convert(tiny_model_folder, tmp_path / "one", dtype=dtype)
    done = convert(tmp_path / "one", tmp_path / "two.gguf", target=Target(to="gguf"))
    convert(Source(tmp_path / "two.gguf", tokenizer=tiny_model_folder), tmp_path / "three")
    assert done.dtype == dtype
    assert equal(values(tmp_path / "one"), values(tmp_path / "three"))
    assert load_file_bytes(tmp_path / "one") == load_file_bytes(tmp_path / "three")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "three", "two.Modelfile", "two.gguf"]


def load_file_bytes(folder: Path) -> dict[str, bytes]:
    arrays = mx.load(str(folder / "model.safetensors"))
    return {name: bytes(memoryview(array.view(mx.uint8))) for name, array in arrays.items()}


@pytest.mark.parametrize("word", ["q8_0", "q4_0"])
def test_quantised_gguf_is_what_the_package_gives(tiny_model_folder: Path, tmp_path: Path, word: str) -> None:
    convert(tiny_model_folder, tmp_path / "small.gguf", target=Target(to="gguf", quantize=word))
    source, found = values(tiny_model_folder), values(tmp_path / "small.gguf")
    for name, array in source.items():
        kind = gguf.GGMLQuantizationType["Q8_0" if "embed" in name else word.upper()]
        wanted = array if array.ndim == 1 else gguf.dequantize(gguf.quantize(array, kind), kind)
        assert np.array_equal(found[name], wanted), name


def test_the_gguf_reader_finds_tokenizer_and_template(tiny_model_folder: Path, tmp_path: Path) -> None:
    convert(tiny_model_folder, tmp_path / "model.gguf", target=Target(to="gguf", dtype="fp16"))
    fields = gguf.GGUFReader(tmp_path / "model.gguf").fields
    tokenizer = json.loads((tiny_model_folder / "tokenizer.json").read_text())
    tokens = fields["tokenizer.ggml.tokens"].contents()
    assert {token: number for number, token in enumerate(tokens)} == tokenizer["model"]["vocab"]
    assert fields["tokenizer.ggml.token_type"].contents()[:3] == [3, 3, 3]
    assert [merge.split(" ") for merge in fields["tokenizer.ggml.merges"].contents()] == tokenizer["model"]["merges"]
    assert fields["tokenizer.ggml.eos_token_id"].contents() == 2
    settings = json.loads((tiny_model_folder / "tokenizer_config.json").read_text())
    assert fields["tokenizer.chat_template"].contents() == settings["chat_template"]
    assert fields["general.architecture"].contents() == "qwen2"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantize": "q8_0"}, "no such form"),
        ({"to": "hf", "quantize": "4"}, "no such form"),
        ({"to": "gguf", "keep": ("lm_head=8bit",)}, "belong to `to` mlx"),
        ({"group_size": 32}, "without `quantize`"),
        ({"quantize": "4", "keep": ("lm_head",)}, "is not NAME=FORM"),
        ({"quantize": "4", "keep": ("lm_head=7bit",)}, "is not a quantisation"),
        ({"quantize": "4", "keep": ("nowhere=bf16",)}, "no matrix of the model"),
        ({"quantize": "mxfp4", "group_size": 64}, "groups of 32 only"),
    ],
)
def test_options_that_cannot_be_are_refused(
    tiny_model_folder: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        convert(tiny_model_folder, tmp_path / "out", target=Target(**options))
    assert not list(tmp_path.iterdir())


def test_rows_that_no_group_divides_stay_dense_and_a_rule_for_them_is_refused(
    model_folder: Callable[..., Path], tiny_model_folder: Path, tmp_path: Path
) -> None:
    convert(model_folder(hidden_size=48, vocab_size=64), tmp_path / "out", target=target("4", 64))
    model = mlx_lm.utils.load(str(tmp_path / "out"))[0]
    assert isinstance(model.layers[0].self_attn.q_proj, nn.Linear)
    assert isinstance(model.layers[0].mlp.down_proj, nn.QuantizedLinear)
    with pytest.raises(InputError, match="do not divide into groups of 64"):
        convert(tiny_model_folder, tmp_path / "two", target=Target(quantize="4", keep=("q_proj=8bit",)))


@given(st.sampled_from(["2", "3bit", "4", "5", "6bit", "8", "mxfp4", "nvfp4"]), st.sampled_from([None, 32, 64, 128]))
def test_a_rule_reads_back_as_its_scheme(word: str, group: int | None) -> None:
    (rule,) = parse_rules([f"a.b={word}"], group)
    assert isinstance(rule.form, Scheme)
    assert str(rule.form.bits) == word.removesuffix("bit") or rule.form.mode == word
    assert rule.matches("a.b")
    assert rule.matches("model.a.b")
    assert not rule.matches("model.xa.b")


def test_blocks_quantise_as_the_whole_does(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(tiny_model_folder, tmp_path / "one", target=target("3", 32))
    convert(tiny_model_folder, tmp_path / "one.gguf", target=Target(to="gguf", quantize="q4_0"))
    monkeypatch.setattr(TensorEntry.spans, "__defaults__", (700,))
    convert(tiny_model_folder, tmp_path / "two", target=target("3", 32))
    convert(tiny_model_folder, tmp_path / "two.gguf", target=Target(to="gguf", quantize="q4_0"))
    one, two = (tmp_path / name / "model.safetensors" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "two.gguf").read_bytes()


VERIFIED = [
    {"quantize": "4", "group_size": 32, "keep": ("lm_head=8bit", "layers.0.*=bf16")},
    *({"quantize": word, "group_size": group if word.isdecimal() else None} for word, group in FORMS),
    *({"to": "gguf", "quantize": word} for word in ("q8_0", "q4_0")),
    *({"to": to, "dtype": dtype} for to in ("hf", "gguf") for dtype in ("fp16", "bf16")),
]


@pytest.mark.parametrize("options", VERIFIED)
def test_verify_explains_what_quantising_moved(
    tiny_model_folder: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    found = convert(tiny_model_folder, tmp_path / "out", target=Target(**options), check=True).verification
    assert found is not None
    source, out = values(tiny_model_folder), values(tmp_path / "out")
    assert found.max_abs == max(np.abs(source[name] - out[name]).max() for name in source)
    assert found.logits_max_abs > 0


def test_verify_sees_a_flipped_bit_in_quantised_weights(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = mlx_writer.quantize_rows

    def flip(*arguments: Any) -> tuple[np.ndarray, ...]:
        weight, *others = real(*arguments)
        weight = weight.copy()
        weight[0, 0] ^= 1
        return weight, *others

    monkeypatch.setattr(mlx_writer, "quantize_rows", flip)
    with pytest.raises(LoopaiError, match="more than"):
        convert(tiny_model_folder, tmp_path / "out", target=target("4", 32), check=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [{"quantize": "4", "group_size": 32}, {"to": "gguf", "quantize": "q8_0"}])
def test_verify_sees_a_quantiser_that_is_wrong_both_times(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """Its own round trip explains the output; the bound of the form does not."""
    real_mlx, real_gguf = mx.quantize, gguf.quantize

    def wider(array: mx.array, **form: Any) -> Any:
        return real_mlx(array * 1.2, **form)

    monkeypatch.setattr(mx, "quantize", wider)
    monkeypatch.setattr(gguf, "quantize", lambda array, kind: real_gguf(array * np.float32(1.2), kind))
    with pytest.raises(LoopaiError, match="more than"):
        convert(tiny_model_folder, tmp_path / "out", target=Target(**options), check=True)


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}


def test_yarns_attention_factor_survives_gguf(model_folder: Callable[..., Path], tmp_path: Path) -> None:
    source = model_folder(rope_scaling=YARN | {"attention_factor": 1.0})
    convert(source, tmp_path / "m.gguf", target=Target(to="gguf"))
    found = open_checkpoint(tmp_path / "m.gguf").config["rope_scaling"]
    assert found["attention_factor"] == pytest.approx(1.0, abs=1e-6)
    assert found["original_max_position_embeddings"] == 32


def test_yarns_betas_which_llama_cpp_ignores_are_refused(model_folder: Callable[..., Path], tmp_path: Path) -> None:
    """The file has keys for them, but llama.cpp reads none for these architectures: 0.9 of a logit, once verified."""
    source = model_folder(rope_scaling=YARN | {"beta_fast": 8.0, "beta_slow": 4.0})
    with pytest.raises(InputError, match=r"beta_fast 8 and beta_slow 4 is not written to GGUF"):
        convert(source, tmp_path / "m.gguf", target=Target(to="gguf"))


def test_groups_that_do_not_divide_the_rows_become_smaller_ones(
    model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """128 of SmolLM2's 576 left most of it dense, and was called 4bit."""
    source = model_folder(hidden_size=96, intermediate_size=256, num_attention_heads=4)
    done = convert(source, tmp_path / "out", target=Target(quantize="4", group_size=128))
    assert done.dtype == "4bit"
    assert done.notes == (
        "14 of 16 matrices are quantised in smaller groups, since 128 does not divide their rows, such as"
        " lm_head.weight",
    )
    config = json.loads((tmp_path / "out/config.json").read_text())["quantization"]
    assert config["group_size"] == 128
    assert config["model.embed_tokens"] == {"group_size": 32, "bits": 4, "mode": "affine"}
    assert "model.layers.0.mlp.down_proj" not in config
    model = mlx_lm.utils.load(str(tmp_path / "out"))[0]
    assert {type(layer).__name__ for _, layer in model.named_modules() if hasattr(layer, "bits")} == {
        "QuantizedLinear",
        "QuantizedEmbedding",
    }


def test_what_stays_dense_is_counted_and_in_the_forms_name(model_folder: Callable[..., Path], tmp_path: Path) -> None:
    source = model_folder(hidden_size=48, intermediate_size=64)
    done = convert(source, tmp_path / "out", target=Target(quantize="4", dtype="bf16"))
    assert done.dtype == "4bit and bf16"
    assert done.notes == ("14 of 16 matrices stay dense: no groups divide their rows, such as lm_head.weight",)
    done = convert(source, tmp_path / "m.gguf", target=Target(to="gguf", quantize="q8_0"))
    assert done.dtype == "q8_0 and fp16"
    assert done.notes[0].startswith("14 of 16 matrices stay dense")


@pytest.mark.parametrize("to", [{"to": "mlx", "quantize": "4"}, {"to": "gguf", "quantize": "q8_0"}])
def test_a_quantisation_that_fits_nothing_is_refused(
    model_folder: Callable[..., Path], tmp_path: Path, to: dict[str, str]
) -> None:
    source = model_folder(hidden_size=48, intermediate_size=48)
    with pytest.raises(InputError, match="no matrix has rows that divide"):
        convert(source, tmp_path / "out", target=Target(**to))
