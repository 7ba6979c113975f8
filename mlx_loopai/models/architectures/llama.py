"""Llama, and with it Kanana, HyperCLOVA X SEED, Midm and SmolLM2; the parts that Qwen and Mistral share with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mlx_loopai.models.architectures.architecture import Architecture, Block, Kind, Linear, Shape

if TYPE_CHECKING:
    from mlx_loopai.models.shape import ModelShape

GGUF_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
GGUF_HEAD_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}


def attention(shape: ModelShape, biased: str = "") -> dict[str, Linear]:
    """The four linears of softmax attention; those whose letter is in `biased` (`qkvo`) have a bias."""
    sizes = {"q": shape.attention_size, "k": shape.kv_size, "v": shape.kv_size}
    found = {
        f"self_attn.{part}_proj": Linear(size, shape.hidden_size, reads="attention", bias=part in biased)
        for part, size in sizes.items()
    }
    return found | {
        "self_attn.o_proj": Linear(shape.hidden_size, shape.attention_size, reads="attended", bias="o" in biased)
    }


def gated_mlp(shape: ModelShape, biased: bool = False) -> dict[str, Linear]:
    """Gate, up and down."""
    hidden, inner = shape.hidden_size, shape.intermediate_size
    return {
        "mlp.gate_proj": Linear(inner, hidden, reads="mlp", bias=biased),
        "mlp.up_proj": Linear(inner, hidden, reads="mlp", bias=biased),
        "mlp.down_proj": Linear(hidden, inner, reads="inner", bias=biased),
    }


def two_norms(shape: ModelShape) -> dict[str, Shape]:
    """One RMSNorm before the attention, one before the MLP."""
    return {f"{name}.weight": (shape.hidden_size,) for name in ("input_layernorm", "post_attention_layernorm")}


def head_norms(shape: ModelShape) -> dict[str, Shape]:
    """An RMSNorm over each head's queries and keys."""
    return {f"self_attn.{part}_norm.weight": (shape.head_dim,) for part in "qk"}


def attention_kept(shape: ModelShape) -> int:
    """Numbers per token that softmax attention keeps: the states before and after its norm, queries, keys, values."""
    return 2 * shape.hidden_size + shape.attention_size + 2 * shape.kv_size


def mlp_kept(shape: ModelShape) -> int:
    """Numbers per token that the gated MLP keeps: the states before and after its norm, gate, sigmoid and up."""
    return 2 * shape.hidden_size + 3 * shape.intermediate_size


def dense_block(shape: ModelShape, linears: Mapping[str, Linear], others: Mapping[str, Shape]) -> Block:
    """A block of softmax attention and a gated MLP."""
    return Block(linears, others, attention_kept(shape), mlp_kept(shape))


def _block(shape: ModelShape, kind: Kind) -> Block:
    biased = "qkvo" if shape.attention_bias else ""
    return dense_block(shape, attention(shape, biased) | gated_mlp(shape, shape.mlp_bias), two_norms(shape))


LLAMA = Architecture(
    model_type="llama",
    class_name="LlamaForCausalLM",
    gguf="llama",
    block=_block,
    gguf_names=GGUF_NAMES,
    tied_by_default=True,
    max_positions=2048,
)
