"""Tiny random models, written with the formats' own libraries and not with ours."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import save_file

from converters.names import expected_tensors, gguf_name

VOCAB = [*(chr(ord("a") + number) for number in range(26)), "<|endoftext|>", "<|im_start|>", "<|im_end|>", "ab"]
MERGES = ["a b"]

CONFIG: dict[str, Any] = {
    "model_type": "qwen2",
    "vocab_size": 32,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-6,
    "rope_theta": 5000.0,
    "tie_word_embeddings": False,
}


def random_tensors(config: dict[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(0, 0.2, shape).astype(np.float32) for name, shape in expected_tensors(config).items()}


def write_tokenizer(folder: Path, tokens: list[str] = VOCAB) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    added = [
        {"id": number, "content": token, "special": True, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False}
        for number, token in enumerate(tokens)
        if token.startswith("<|")
    ]  # fmt: skip
    vocabulary = {token: number for number, token in enumerate(tokens)}
    merges = [merge.split(" ") for merge in MERGES if "".join(merge.split(" ")) in vocabulary]
    model = {"type": "BPE", "vocab": vocabulary, "merges": merges, "unk_token": None}
    document = {"version": "1.0", "added_tokens": added, "model": model}
    document["pre_tokenizer"] = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    }
    (folder / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


@pytest.fixture
def config() -> dict[str, Any]:
    """The configuration of the tiny model, to be changed freely."""
    return dict(CONFIG)


@pytest.fixture
def make_tokenizer() -> Callable[..., Path]:
    return write_tokenizer


@pytest.fixture
def make_tensors() -> Callable[..., dict[str, np.ndarray]]:
    return random_tensors


@pytest.fixture
def tokenizer_folder(tmp_path: Path) -> Path:
    return write_tokenizer(tmp_path / "tokenizer")


@pytest.fixture
def model_folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes a Hugging Face folder; keyword arguments change the configuration."""

    def build(name: str = "source", dtype: type = np.float32, **changes: Any) -> Path:
        config = CONFIG | changes
        folder = write_tokenizer(tmp_path / name)
        tensors = {key: value.astype(dtype) for key, value in random_tensors(config).items()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        (folder / "generation_config.json").write_text('{"eos_token_id": [28, 26]}', encoding="utf-8")
        return folder

    return build


@pytest.fixture
def gguf_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes a GGUF file; `kinds` gives the tensor type by GGUF name, F32 otherwise."""

    def build(name: str = "model.gguf", kinds: dict[str, str] | None = None, **changes: Any) -> Path:
        config = CONFIG | changes
        path = tmp_path / name
        arch = config["model_type"]
        writer = gguf.GGUFWriter(path, arch)
        writer.add_block_count(config["num_hidden_layers"])
        writer.add_context_length(config["max_position_embeddings"])
        writer.add_embedding_length(config["hidden_size"])
        writer.add_feed_forward_length(config["intermediate_size"])
        writer.add_head_count(config["num_attention_heads"])
        writer.add_head_count_kv(config["num_key_value_heads"])
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
        writer.add_rope_freq_base(config["rope_theta"])
        if "head_dim" in config:
            writer.add_key_length(config["head_dim"])
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        padding = [f"[PAD{number}]" for number in range(len(VOCAB), config["vocab_size"])]
        writer.add_token_list(VOCAB + padding)
        kinds_of = [gguf.TokenType.CONTROL if token.startswith("<|") else gguf.TokenType.NORMAL for token in VOCAB]
        writer.add_token_types([*kinds_of, *[gguf.TokenType.UNUSED] * len(padding)])
        writer.add_token_merges(MERGES)
        writer.add_eos_token_id(28)
        writer.add_pad_token_id(26)
        for hf, tensor in random_tensors(config).items():
            their = gguf_name(hf)
            assert their is not None
            kind = gguf.GGMLQuantizationType[(kinds or {}).get(their, "F32")]
            data = tensor if kind == gguf.GGMLQuantizationType.F32 else gguf.quantize(tensor, kind)
            writer.add_tensor(their, data, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return build
