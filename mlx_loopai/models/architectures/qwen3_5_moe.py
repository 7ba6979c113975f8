"""Qwen3.5 with experts: the dense model with a mixture of experts for each MLP; one expert is shared by all tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mlx_loopai.errors import InputError, all_problems
from mlx_loopai.language import tr
from mlx_loopai.models.architectures.architecture import Block, Kind, Linear
from mlx_loopai.models.architectures.qwen3_5 import QWEN3_5, mixer, settle
from mlx_loopai.models.architectures.qwen3_moe import (
    GGUF_EXPERTS,
    ROUTER,
    expert_linears,
    experts_kept,
    experts_of,
    settle_experts,
)

if TYPE_CHECKING:
    from mlx_loopai.models.shape import ModelShape

SHARED_GATE = "mlp.shared_expert_gate"
_GGUF_NAMES = {theirs: ours for theirs, ours in QWEN3_5.gguf_names.items() if not theirs.startswith("ffn_")} | {
    **GGUF_EXPERTS,
    "ffn_gate_inp_shexp": SHARED_GATE,
    "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
    "ffn_up_shexp": "mlp.shared_expert.up_proj",
    "ffn_down_shexp": "mlp.shared_expert.down_proj",
}


def _block(shape: ModelShape, kind: Kind) -> Block:
    assert shape.experts is not None
    linears, others, kept = mixer(shape, kind)
    hidden, inner = shape.hidden_size, shape.experts.shared_inner
    shared = {
        "mlp.shared_expert.gate_proj": Linear(inner, hidden, reads="mlp"),
        "mlp.shared_expert.up_proj": Linear(inner, hidden, reads="mlp"),
        "mlp.shared_expert.down_proj": Linear(hidden, inner, reads="inner"),
        SHARED_GATE: Linear(1, hidden, reads="mlp"),
    }
    return Block(linears | expert_linears(shape) | shared, others, kept, experts_kept(shape) + 4 * inner + hidden)


def _settle(config: dict[str, Any], where: str) -> None:
    problems = settle_experts(config)
    size = config.get("shared_expert_intermediate_size")
    if isinstance(size, bool) or not isinstance(size, int) or size <= 0:
        problems.append(
            tr("shared_expert_intermediate_size is {size} where a positive whole number is needed", size=str(size)[:40])
        )
    # mlx-lm always divides by the sum of the chosen experts' weights, as transformers does.
    if config.get("norm_topk_prob") is False:
        problems.append(tr("norm_topk_prob is off, which transformers does not compute for this architecture"))
    if problems:
        raise InputError(f"{where}: {all_problems(problems)}")
    settle(config, where)


QWEN3_5_MOE = replace(
    QWEN3_5,
    gguf="qwen35moe",
    gguf_names=_GGUF_NAMES,
    model_type="qwen3_5_moe",
    text_type="qwen3_5_moe_text",
    class_name="Qwen3_5MoeForCausalLM",
    block=_block,
    experts=experts_of,
    defaults={
        **QWEN3_5.defaults,
        "moe_intermediate_size": 512,
        "shared_expert_intermediate_size": 512,
        "num_experts_per_tok": 8,
        "num_experts": 256,
        "norm_topk_prob": True,
    },
    settle=_settle,
    never_adapted=(ROUTER, SHARED_GATE),
)
