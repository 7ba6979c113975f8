"""Rows that llama.cpp keeps in another order than Hugging Face.

For `llama`, llama.cpp rotates neighbouring pairs where Hugging Face rotates halves, so the rows of every query and key
head are interleaved. For `gptneox`, the fused query-key-value matrix holds all queries, then all keys, then all values,
where Hugging Face has the three of each head together. For Qwen3.5's value heads see `_value_heads`.
Source: llama.cpp's convert_hf_to_gguf.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


def hf_row_order(name: str, config: Mapping[str, Any]) -> np.ndarray | None:
    """For the tensor `name`: which row of the GGUF file is row i of Hugging Face's; None when the order is the same."""
    heads = config["num_attention_heads"]
    if config["model_type"] == "gpt_neox" and ".attention.query_key_value." in name:
        numbers = np.arange(3 * config["hidden_size"])
        return numbers.reshape(3, heads, -1).swapaxes(0, 1).ravel()
    if config["model_type"] in ("qwen3_5", "qwen3_5_moe"):
        return _value_heads(name, config)
    if config["model_type"] not in ("llama", "mistral"):
        return None
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    for part, count in (("q_proj", heads), ("k_proj", config["num_key_value_heads"])):
        if f".self_attn.{part}." in name:
            return np.arange(count * head_dim).reshape(count, head_dim // 2, 2).swapaxes(1, 2).ravel()
    return None


def _value_heads(name: str, config: Mapping[str, Any]) -> np.ndarray | None:
    """Linear attention whose keys serve several value heads each: Hugging Face has the value heads of a key together,
    llama.cpp the first of every key, then the second of every key."""
    keys, values = config["linear_num_key_heads"], config["linear_num_value_heads"]
    part = name.partition(".linear_attn.")[2]
    if keys == values or not part:
        return None
    # Place of our head i in the file.
    heads = np.arange(values).reshape(values // keys, keys).T.ravel()
    width = 1 if part.startswith(("in_proj_a.", "in_proj_b.", "A_log", "dt_bias")) else config["linear_value_head_dim"]
    order = (heads[:, None] * width + np.arange(width)).ravel()
    if part.startswith(("in_proj_qkv.", "conv1d.")):
        before = 2 * keys * config["linear_key_head_dim"]
        return np.concatenate([np.arange(before), before + order])
    return None if part.startswith("norm.") else order


def of_columns(name: str, shape: tuple[int, ...]) -> bool:
    """Whether the order of `name` is one of columns: a vector's, or that of the matrix that reads the value heads."""
    return len(shape) == 1 or name.endswith(".linear_attn.out_proj.weight")


def gguf_row_order(name: str, config: Mapping[str, Any]) -> np.ndarray | None:
    """The inverse of `hf_row_order`: which row of Hugging Face's tensor is row i of the GGUF file's."""
    order = hf_row_order(name, config)
    return None if order is None else np.argsort(order)


def reordered(
    read_rows: Callable[[int, int], np.ndarray], order: np.ndarray, of_columns: bool
) -> Callable[[int, int], np.ndarray]:
    """`read_rows` of a tensor whose row i is the given one's row `order[i]` (`of_columns`: a vector's values)."""

    def read_columns(start: int, stop: int) -> np.ndarray:
        return read_rows(start, stop)[:, order]

    def read(start: int, stop: int) -> np.ndarray:
        rows, place = np.unique(order[start:stop], return_inverse=True)
        # Neighbours are read together, so a block costs a few reads and never more than its own size.
        runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
        return np.concatenate([read_rows(int(run[0]), int(run[-1]) + 1) for run in runs])[place]

    return read_columns if of_columns else read
