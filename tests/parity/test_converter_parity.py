"""The same logits in transformers and in mlx-lm, through the converter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx_loopai  # noqa: F401

# isort: split
import gguf
import mlx.core as mx
import numpy as np
import pytest

from converters.convert import convert
from converters.names import architecture_of, gguf_name
from converters.writers.target import Target
from mlx_loopai.cli.convert import command
from tests.parity.tiny_models import KINDS, TOKENS, TOKENS_OF_TEXT, TOLERANCES, VOCAB, tiny_model
from tests.tiny_files import write_gguf, write_tokenizer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.parity


# Where transformers 5 has other names in memory than on disk.
ON_DISK = {"gpt_neox": {"lm_head.weight": "embed_out.weight"}}


def their_logits(model: Any) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor(TOKENS)).logits.float().numpy()


def our_logits(folder: Path) -> np.ndarray:
    import mlx_lm

    model, tokenizer = mlx_lm.load(str(folder))
    assert tokenizer.eos_token_id == VOCAB - 2
    return np.array(model(mx.array(TOKENS)).astype(mx.float32))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("layout", ["single", "sharded", "torch"])
def test_a_transformers_folder(tmp_path: Path, kind: str, tied: bool, layout: str) -> None:
    model = tiny_model(kind.split("-")[0], tie_word_embeddings=tied, **KINDS[kind])
    source = write_tokenizer(tmp_path / "source", TOKENS_OF_TEXT)
    model.save_pretrained(source, max_shard_size="100KB" if layout == "sharded" else "10GB")
    assert (len(list(source.glob("*.safetensors"))) > 1) is (layout == "sharded")
    if layout == "torch":
        (source / "model.safetensors").unlink()
        names = ON_DISK.get(model.config.model_type, {})
        state = {names.get(name, name): tensor for name, tensor in model.state_dict().items()}
        torch.save(state, source / "pytorch_model.bin")
    convert(source, tmp_path / "out", dtype="fp32")
    assert np.abs(our_logits(tmp_path / "out") - their_logits(model)).max() < TOLERANCES.get(kind, 1e-4)


def test_the_exact_gelu_of_korean_gpt_neox_models_is_approximated(tmp_path: Path) -> None:
    model = tiny_model("GPTNeoX", **KINDS["GPTNeoX"] | {"hidden_act": "gelu"})
    model.save_pretrained(write_tokenizer(tmp_path / "source", TOKENS_OF_TEXT))
    convert(tmp_path / "source", tmp_path / "out", dtype="fp32")
    assert np.abs(our_logits(tmp_path / "out") - their_logits(model)).max() < 2e-2


def test_bf16_weights_arrive_without_loss(tmp_path: Path) -> None:
    model = tiny_model(tie_word_embeddings=False).to(torch.bfloat16)
    model.save_pretrained(write_tokenizer(tmp_path / "source", TOKENS_OF_TEXT))
    assert convert(tmp_path / "source", tmp_path / "kept").dtype == "bf16"
    convert(tmp_path / "source", tmp_path / "wide", dtype="fp32")
    # Loaded anew: a model cast to bf16 and back has lost bits of its rotary frequencies, which no file holds.
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "source", dtype=torch.float32).eval()
    assert np.abs(our_logits(tmp_path / "wide") - their_logits(theirs)).max() < 1e-4
    kept = mx.load(str(tmp_path / "kept/model.safetensors"))
    wide = mx.load(str(tmp_path / "wide/model.safetensors"))
    assert all(mx.array_equal(kept[name].astype(mx.float32), wide[name]) for name in wide)


LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@pytest.mark.parametrize(
    ("kind", "scaling"),
    [
        ("Qwen2", {"rope_type": "yarn", "rope_theta": 777.0, "factor": 4.0, "original_max_position_embeddings": 64}),
        ("Llama", {"rope_type": "linear", "rope_theta": 777.0, "factor": 4.0}),
        ("Llama", LLAMA3),
        ("Llama", LLAMA3 | {"rope_theta": 777.0, "original_max_position_embeddings": 64}),
    ],
    ids=["yarn", "linear", "llama3", "llama3-short"],
)
def test_rotary_scaling(tmp_path: Path, kind: str, scaling: dict[str, Any]) -> None:
    model = tiny_model(kind, rope_parameters=scaling)
    model.save_pretrained(write_tokenizer(tmp_path / "source", TOKENS_OF_TEXT))
    convert(tmp_path / "source", tmp_path / "out", dtype="fp32")
    assert np.abs(our_logits(tmp_path / "out") - their_logits(model)).max() < 1e-4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_back_to_transformers(tmp_path: Path, kind: str, tied: bool) -> None:
    model = tiny_model(kind.split("-")[0], tie_word_embeddings=tied, **KINDS[kind])
    model.save_pretrained(write_tokenizer(tmp_path / "source", TOKENS_OF_TEXT))
    convert(tmp_path / "source", tmp_path / "mlx", dtype="fp32")
    convert(tmp_path / "mlx", tmp_path / "hf", target=Target(to="hf"))
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32).eval()
    assert np.abs(their_logits(again) - their_logits(model)).max() < 1e-6


def interleaved(values: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a query or key projection as llama.cpp keeps them: halves of each head interleaved."""
    return values.reshape(heads, 2, -1, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def in_llama_cpps_order(name: str, values: np.ndarray, config: Any) -> np.ndarray:
    if config.model_type in ("llama", "mistral") and ".q_proj." in name:
        return interleaved(values, config.num_attention_heads)
    if config.model_type in ("llama", "mistral") and ".k_proj." in name:
        return interleaved(values, config.num_key_value_heads)
    if ".query_key_value." in name:
        by_head = values.reshape(config.num_attention_heads, 3, -1, *values.shape[1:])
        return by_head.swapaxes(0, 1).reshape(values.shape)
    return values


def in_gguf(name: str, config: Any) -> str | None:
    return gguf_name(ON_DISK.get(config.model_type, {}).get(name, name), architecture_of(config.model_type, "a test"))


def flat(config: Any) -> dict[str, Any]:
    """transformers' configuration with the rotary settings where all others look for them."""
    rope = config.rope_parameters
    return config.to_dict() | {"rope_theta": rope["rope_theta"], "rotary_pct": rope.get("partial_rotary_factor")}


def gguf_of(path: Path, model: Any, kind: str) -> None:
    """`model` as a GGUF file; matrices become `kind`. The model gets the rounded weights, so that both are the same."""
    config, tensors, kinds = model.config, {}, {}
    if config.rope_parameters["rope_type"] == "llama3":
        base = 1 / config.rope_parameters["rope_theta"] ** (np.arange(0, 8, 2) / 8)
        tensors["rope_freqs.weight"] = (base / model.model.rotary_emb.inv_freq.numpy()).astype(np.float32)
    for name, parameter in model.named_parameters():
        values = parameter.detach().numpy().copy()
        tensors[ON_DISK.get(config.model_type, {}).get(name, name)] = in_llama_cpps_order(name, values, config)
        if values.ndim == 2 and kind != "F32":
            kinds[in_gguf(name, config)] = kind
            quantized = gguf.GGMLQuantizationType[kind]
            with torch.no_grad():
                parameter.copy_(torch.tensor(gguf.dequantize(gguf.quantize(values, quantized), quantized)))
    write_gguf(path, flat(config), tensors, kinds, TOKENS_OF_TEXT)


GGUF_KINDS = {
    name: changes
    for name, changes in KINDS.items()
    if not name.startswith(("Qwen3_5", "Qwen3Moe", "Exaone4", "Gemma3"))
} | {
    "Qwen3": {"head_dim": 32},
    "Mistral": {"head_dim": 32},
    "Llama-llama3": {"rope_parameters": LLAMA3},
}


@pytest.mark.parametrize("kind", GGUF_KINDS)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("quantisation", ["F32", "Q8_0"])
def test_a_gguf_file(tmp_path: Path, kind: str, tied: bool, quantisation: str) -> None:
    neox = kind == "GPTNeoX"
    model = tiny_model(kind.split("-")[0], tie_word_embeddings=tied and not neox, **GGUF_KINDS[kind])
    gguf_of(tmp_path / "m.gguf", model, quantisation)
    convert(tmp_path / "m.gguf", tmp_path / "out", dtype="fp32")
    assert json.loads((tmp_path / "out/config.json").read_text())["tie_word_embeddings"] is (tied and not neox)
    assert np.abs(our_logits(tmp_path / "out") - their_logits(model)).max() < 1e-4


@pytest.mark.parametrize("kind", GGUF_KINDS)
def test_a_gguf_file_that_we_write(tmp_path: Path, kind: str) -> None:
    model = tiny_model(kind.split("-")[0], **GGUF_KINDS[kind])
    model.save_pretrained(write_tokenizer(tmp_path / "source", TOKENS_OF_TEXT))
    convert(tmp_path / "source", tmp_path / "m.gguf", target=Target(to="gguf", dtype="fp32"))
    stored = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    for name, parameter in model.named_parameters():
        wanted = in_llama_cpps_order(name, parameter.detach().numpy(), model.config)
        assert np.array_equal(stored[in_gguf(name, model.config)], wanted), name
    convert(tmp_path / "m.gguf", tmp_path / "out", dtype="fp32")
    assert np.abs(our_logits(tmp_path / "out") - their_logits(model)).max() < 1e-4


def test_the_command_verifies_with_the_projects_own_loader(tmp_path: Path) -> None:
    from click.testing import CliRunner

    tiny_model(tie_word_embeddings=False).save_pretrained(write_tokenizer(tmp_path / "source", TOKENS_OF_TEXT))
    arguments = [str(tmp_path / "source"), "--out", str(tmp_path / "out"), "--dtype", "bf16", "--verify", "--json"]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    found = json.loads(result.stdout)["verify"]
    assert 0 < found["max_rel"] <= 2**-8
    assert 0 < found["logits_max_abs"] < 1
