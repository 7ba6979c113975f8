"""Qwen2 and 2.5: Llama with biases on queries, keys and values, which its configuration does not mention."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_loopai.models.architectures.architecture import Architecture, Block, Kind
from mlx_loopai.models.architectures.llama import GGUF_NAMES, attention, dense_block, gated_mlp, two_norms

if TYPE_CHECKING:
    from mlx_loopai.models.shape import ModelShape


def _block(shape: ModelShape, kind: Kind) -> Block:
    return dense_block(shape, attention(shape, "qkv") | gated_mlp(shape), two_norms(shape))


QWEN2 = Architecture(
    model_type="qwen2",
    class_name="Qwen2ForCausalLM",
    gguf="qwen2",
    block=_block,
    wrappers=("qwen2_vl", "qwen2_vl_text", "qwen2_5_vl", "qwen2_5_vl_text"),
    gguf_names=GGUF_NAMES,
    tied_by_default=True,
)
