"""Qwen3, dense: Llama with norms over each head's queries and keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_loopai.models.architectures.architecture import Architecture, Block, Kind
from mlx_loopai.models.architectures.llama import (
    GGUF_HEAD_NORMS,
    GGUF_NAMES,
    attention,
    dense_block,
    gated_mlp,
    head_norms,
    two_norms,
)

if TYPE_CHECKING:
    from mlx_loopai.models.shape import ModelShape


def _block(shape: ModelShape, kind: Kind) -> Block:
    return dense_block(shape, attention(shape) | gated_mlp(shape), two_norms(shape) | head_norms(shape))


QWEN3 = Architecture(
    model_type="qwen3",
    class_name="Qwen3ForCausalLM",
    gguf="qwen3",
    block=_block,
    wrappers=("qwen3_vl", "qwen3_vl_text"),
    gguf_names=GGUF_NAMES | GGUF_HEAD_NORMS,
    head_dim=128,
)
