"""The files of tiny models, as other programs write them: one builder of each kind for all tests."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from converters.names import architecture_of, gguf_name

CHAT_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
VOCAB = [*(chr(ord("a") + number) for number in range(26)), *CHAT_TOKENS, "ab"]
MERGES = ["a b"]


def byte_tokenizer(lines: Iterable[str], size: int) -> Tokenizer:
    """A byte-level BPE of at most `size` tokens trained on `lines`; Qwen's chat tokens come first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=CHAT_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    return tokenizer


def write_tokenizer(folder: Path, tokens: Sequence[str] = VOCAB) -> Path:
    """A tokenizer.json of just these tokens, in the order of their ids; those that begin with `<|` are special."""
    folder.mkdir(parents=True, exist_ok=True)
    flags = {"special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    merges = [merge.split(" ") for merge in MERGES if merge.replace(" ", "") in tokens]
    document = {
        "version": "1.0",
        "added_tokens": [
            {"id": number, "content": token} | flags for number, token in enumerate(tokens) if token.startswith("<|")
        ],
        "model": {"type": "BPE", "vocab": {token: at for at, token in enumerate(tokens)}, "merges": merges},
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    }
    (folder / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def write_gguf(
    path: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    kinds: Mapping[str, str] | None = None,
    tokens: Sequence[str] = VOCAB,
) -> Path:
    """A GGUF file written by the `gguf` package.

    `config` has the flat names of config.json, `tensors` their Hugging Face names and llama.cpp's row order; `kinds`
    gives the type by GGUF name, F32 otherwise.
    """
    architecture = architecture_of(config["model_type"], "a test")
    writer = gguf.GGUFWriter(path, architecture.gguf)
    _add_sizes(writer, config)
    _add_tokenizer(writer, tokens, config["vocab_size"])
    for name, tensor in tensors.items():
        # Such as `rope_freqs.weight`, which only GGUF has.
        theirs = gguf_name(name, architecture) or name
        kind = gguf.GGMLQuantizationType[(kinds or {}).get(theirs, "F32")]
        data = tensor if kind == gguf.GGMLQuantizationType.F32 else gguf.quantize(tensor, kind)
        writer.add_tensor(theirs, data.copy(), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_sizes(writer: gguf.GGUFWriter, config: Mapping[str, Any]) -> None:
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_rope_freq_base(config["rope_theta"])
    if config["model_type"] == "gpt_neox":
        writer.add_layer_norm_eps(config["layer_norm_eps"])
        head_dim = config["hidden_size"] // config["num_attention_heads"]
        writer.add_rope_dimension_count(int(head_dim * config["rotary_pct"]))
        writer.add_parallel_residual(config["use_parallel_residual"])
        return
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    if config.get("head_dim"):
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])


def _add_tokenizer(writer: gguf.GGUFWriter, tokens: Sequence[str], rows: int) -> None:
    padding = [f"[PAD{number}]" for number in range(len(tokens), rows)]
    kinds = [gguf.TokenType.CONTROL if token.startswith("<|") else gguf.TokenType.NORMAL for token in tokens]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*tokens, *padding])
    writer.add_token_types([*kinds, *[gguf.TokenType.UNUSED] * len(padding)])
    writer.add_token_merges([merge for merge in MERGES if merge.replace(" ", "") in tokens])
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    if "<|endoftext|>" in tokens:
        writer.add_pad_token_id(tokens.index("<|endoftext|>"))
