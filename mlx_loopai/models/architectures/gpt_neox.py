"""GPT-NeoX (Polyglot-Ko): LayerNorms, one matrix for queries, keys and values, attention and MLP in parallel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_loopai.models.architectures.architecture import Architecture, Block, Kind, Linear
from mlx_loopai.models.architectures.llama import dense_block

if TYPE_CHECKING:
    from mlx_loopai.models.shape import ModelShape

NORM_KINDS = ("weight", "bias")


def _block(shape: ModelShape, kind: Kind) -> Block:
    hidden, inner, attention = shape.hidden_size, shape.intermediate_size, shape.attention_size
    linears = {
        "attention.query_key_value": Linear(3 * attention, hidden, reads="attention", bias=True),
        "attention.dense": Linear(hidden, attention, reads="attended", bias=True),
        "mlp.dense_h_to_4h": Linear(inner, hidden, reads="mlp", bias=True),
        "mlp.dense_4h_to_h": Linear(hidden, inner, reads="inner", bias=True),
    }
    norms = ("input_layernorm", "post_attention_layernorm")
    return dense_block(shape, linears, {f"{norm}.{kind}": (hidden,) for norm in norms for kind in NORM_KINDS})


GPT_NEOX = Architecture(
    model_type="gpt_neox",
    class_name="GPTNeoXForCausalLM",
    gguf="gptneox",
    block=_block,
    gguf_names={
        "attn_norm": "input_layernorm",
        "attn_qkv": "attention.query_key_value",
        "attn_output": "attention.dense",
        "ffn_norm": "post_attention_layernorm",
        "ffn_up": "mlp.dense_h_to_4h",
        "ffn_down": "mlp.dense_4h_to_h",
    },
    layout="parallel",
    prefix="gpt_neox",
    mlx_blocks="model.h",
    embedding="gpt_neox.embed_in.weight",
    final_norm="gpt_neox.final_layer_norm",
    head="embed_out.weight",
    norm_kinds=NORM_KINDS,
    always_own_head=True,
    max_positions=2048,
)
