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
from converters.names import gguf_name
from mlx_loopai.cli.convert import command

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.parity

VOCAB = 96
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    # Neither transformers' nor mlx-lm's default: a converter that loses it gives other logits.
    "rope_parameters": {"rope_type": "default", "rope_theta": 777.0},
}
TOKENS = np.random.default_rng(5).integers(0, VOCAB, (2, 40))


def write_tokenizer(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {chr(0x21 + number): number for number in range(VOCAB - 2)}
    added = {"id": VOCAB - 2, "content": "<|im_end|>", "special": True, "single_word": False, "lstrip": False}
    model = {"type": "BPE", "vocab": vocabulary, "merges": []}
    document = {"version": "1.0", "added_tokens": [added | {"rstrip": False, "normalized": False}], "model": model}
    (folder / "tokenizer.json").write_text(json.dumps(document))
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}'
    )
    return folder


def tiny_model(kind: str = "Qwen2", **changes: Any) -> Any:
    """A random model whose every parameter, biases and norms included, differs from its initial constant."""
    torch.manual_seed(3)
    config = getattr(transformers, f"{kind}Config")(**SHAPE | changes)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2 + (1.0 if "norm" in name else 0.0))
    return model


def their_logits(model: Any) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor(TOKENS)).logits.float().numpy()


def our_logits(folder: Path) -> np.ndarray:
    import mlx_lm

    model, tokenizer = mlx_lm.load(str(folder))
    assert tokenizer.eos_token_id == VOCAB - 2
    return np.array(model(mx.array(TOKENS)).astype(mx.float32))


@pytest.mark.parametrize("kind", ["Qwen2", "Qwen3"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("shard_size", ["10GB", "100KB"], ids=["single", "sharded"])
def test_a_transformers_folder(tmp_path: Path, kind: str, tied: bool, shard_size: str) -> None:
    extra = {"head_dim": 24} if kind == "Qwen3" else {}
    model = tiny_model(kind, tie_word_embeddings=tied, **extra)
    model.save_pretrained(write_tokenizer(tmp_path / "source"), max_shard_size=shard_size)
    assert (len(list((tmp_path / "source").glob("*.safetensors"))) > 1) is (shard_size == "100KB")
    convert(tmp_path / "source", tmp_path / "out", dtype="fp32")
    assert np.abs(our_logits(tmp_path / "out") - their_logits(model)).max() < 1e-4


def test_bf16_weights_arrive_without_loss(tmp_path: Path) -> None:
    model = tiny_model(tie_word_embeddings=False).to(torch.bfloat16)
    model.save_pretrained(write_tokenizer(tmp_path / "source"))
    assert convert(tmp_path / "source", tmp_path / "kept").dtype == "bf16"
    convert(tmp_path / "source", tmp_path / "wide", dtype="fp32")
    # Loaded anew: a model cast to bf16 and back has lost bits of its rotary frequencies, which no file holds.
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "source", dtype=torch.float32).eval()
    assert np.abs(our_logits(tmp_path / "wide") - their_logits(theirs)).max() < 1e-4
    kept = mx.load(str(tmp_path / "kept/model.safetensors"))
    wide = mx.load(str(tmp_path / "wide/model.safetensors"))
    assert all(mx.array_equal(kept[name].astype(mx.float32), wide[name]) for name in wide)


def test_yarn_scaling(tmp_path: Path) -> None:
    scaling = {"rope_type": "yarn", "rope_theta": 777.0, "factor": 4.0, "original_max_position_embeddings": 64}
    model = tiny_model(rope_parameters=scaling)
    model.save_pretrained(write_tokenizer(tmp_path / "source"))
    convert(tmp_path / "source", tmp_path / "out", dtype="fp32")
    assert np.abs(our_logits(tmp_path / "out") - their_logits(model)).max() < 1e-4


def test_an_mlx_folder_goes_back_to_transformers(tmp_path: Path) -> None:
    model = tiny_model(tie_word_embeddings=False)
    model.save_pretrained(write_tokenizer(tmp_path / "source"))
    convert(tmp_path / "source", tmp_path / "out", dtype="fp32")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    assert np.array_equal(their_logits(again), their_logits(model))


def write_gguf(path: Path, model: Any, kind: gguf.GGMLQuantizationType) -> None:
    """`model` as a GGUF file; matrices become `kind`. The model gets the rounded weights, so that both are the same."""
    config = model.config
    writer = gguf.GGUFWriter(path, config.model_type)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    if config.model_type == "qwen3":
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    writer.add_eos_token_id(VOCAB - 2)
    for name, parameter in model.named_parameters():
        values = parameter.detach().numpy()
        theirs = gguf_name(name)
        assert theirs is not None
        if values.ndim == 1 or kind == gguf.GGMLQuantizationType.F32:
            writer.add_tensor(theirs, values.copy())
            continue
        packed = gguf.quantize(values, kind)
        writer.add_tensor(theirs, packed, raw_dtype=kind)
        with torch.no_grad():
            parameter.copy_(torch.tensor(gguf.dequantize(packed, kind)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("kind", ["Qwen2", "Qwen3"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("quantisation", ["F32", "Q8_0"])
def test_a_gguf_file(tmp_path: Path, kind: str, tied: bool, quantisation: str) -> None:
    extra = {"head_dim": 32} if kind == "Qwen3" else {}
    model = tiny_model(kind, tie_word_embeddings=tied, **extra)
    write_gguf(tmp_path / "m.gguf", model, gguf.GGMLQuantizationType[quantisation])
    convert(tmp_path / "m.gguf", tmp_path / "out", tokenizer=write_tokenizer(tmp_path / "tokenizer"), dtype="fp32")
    assert json.loads((tmp_path / "out/config.json").read_text())["tie_word_embeddings"] is tied
    assert np.abs(our_logits(tmp_path / "out") - their_logits(model)).max() < 1e-4


def test_the_command_verifies_with_the_projects_own_loader(tmp_path: Path) -> None:
    from click.testing import CliRunner

    tiny_model(tie_word_embeddings=False).save_pretrained(write_tokenizer(tmp_path / "source"))
    arguments = [str(tmp_path / "source"), "--out", str(tmp_path / "out"), "--dtype", "bf16", "--verify", "--json"]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    found = json.loads(result.stdout)["verify"]
    assert 0 < found["max_rel"] <= 2**-8
    assert 0 < found["logits_max_abs"] < 1
