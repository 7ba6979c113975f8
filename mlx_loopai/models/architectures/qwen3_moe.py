"""Qwen3 with experts: a router chooses a few of a block's many MLPs for each token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlx_loopai.errors import InputError, all_problems
from mlx_loopai.language import tr
from mlx_loopai.models.architectures.architecture import Architecture, Block, Experts, Kind, Linear
from mlx_loopai.models.architectures.llama import (
    GGUF_HEAD_NORMS,
    GGUF_NAMES,
    attention,
    attention_kept,
    dense_block,
    gated_mlp,
    head_norms,
    two_norms,
)
from mlx_loopai.models.rope import settle_rope

if TYPE_CHECKING:
    from mlx_loopai.models.shape import ModelShape

ROUTER = "mlp.gate"
# What transformers' configuration class assumes when a file leaves the key out.
_DEFAULTS: dict[str, Any] = {
    "rms_norm_eps": 1e-6,
    "decoder_sparse_step": 1,
    "moe_intermediate_size": 768,
    "num_experts_per_tok": 8,
    "norm_topk_prob": False,
    "mlp_only_layers": [],
}


GGUF_EXPERTS = {
    "ffn_gate_inp": ROUTER,
    "ffn_gate_exps": "mlp.switch_mlp.gate_proj",
    "ffn_up_exps": "mlp.switch_mlp.up_proj",
    "ffn_down_exps": "mlp.switch_mlp.down_proj",
}


def expert_linears(shape: ModelShape) -> dict[str, Linear]:
    """The router and the stacked MLPs of all experts."""
    assert shape.experts is not None
    hidden, experts = shape.hidden_size, shape.experts
    wide = Linear(experts.inner, hidden, reads="experts", experts=experts.count)
    return {
        ROUTER: Linear(experts.count, hidden, reads="mlp"),
        "mlp.switch_mlp.gate_proj": wide,
        "mlp.switch_mlp.up_proj": wide,
        "mlp.switch_mlp.down_proj": Linear(hidden, experts.inner, reads="expert inner", experts=experts.count),
    }


def experts_kept(shape: ModelShape) -> int:
    """Numbers per token that experts keep: the states before and after their norm, and for each chosen expert its
    input and output, gate, sigmoid, up and product."""
    assert shape.experts is not None
    hidden, experts = shape.hidden_size, shape.experts
    return 2 * hidden + experts.chosen * (2 * hidden + 4 * experts.inner) + experts.count


def _block(shape: ModelShape, kind: Kind) -> Block:
    linears, norms = attention(shape), two_norms(shape) | head_norms(shape)
    if kind == "dense":
        return dense_block(shape, linears | gated_mlp(shape), norms)
    return Block(linears | expert_linears(shape), norms, attention_kept(shape), experts_kept(shape))


def kinds(config: Mapping[str, Any]) -> tuple[Kind, ...]:
    """Every `decoder_sparse_step`-th block has experts, except those in `mlp_only_layers`."""
    every, dense = config.get("decoder_sparse_step") or 1, config.get("mlp_only_layers") or ()
    return tuple(
        "full" if index not in dense and (index + 1) % every == 0 else "dense"
        for index in range(config["num_hidden_layers"])
    )


def experts_of(config: Mapping[str, Any]) -> Experts:
    """The sizes of a configuration's experts."""
    return Experts(
        count=config.get("num_experts") or config.get("num_local_experts") or 0,
        chosen=config.get("num_experts_per_tok") or _DEFAULTS["num_experts_per_tok"],
        inner=config.get("moe_intermediate_size") or _DEFAULTS["moe_intermediate_size"],
        shared_inner=config.get("shared_expert_intermediate_size") or 0,
    )


def settle_experts(config: dict[str, Any]) -> list[str]:
    """Write the number of experts where mlx-lm looks for it; what is wrong with their sizes."""
    # transformers 5 has another name for it.
    count = config.pop("num_local_experts", None)
    config.setdefault("num_experts", count)
    sizes = ("num_experts", "num_experts_per_tok", "moe_intermediate_size")
    wrong = [
        f"{key} is {str(config.get(key))[:40]} where a positive whole number is needed"
        for key in sizes
        if _bad(config.get(key))
    ]
    if not wrong and config["num_experts_per_tok"] > config["num_experts"]:
        wrong.append(
            tr(
                "num_experts_per_tok is {num_experts_per_tok} of {num_experts} experts",
                num_experts_per_tok=config["num_experts_per_tok"],
                num_experts=config["num_experts"],
            )
        )
    if config.get("hidden_act", "silu") != "silu":
        wrong.append(tr("hidden_act is {hidden_act!r}, silu is computed", hidden_act=str(config["hidden_act"])[:40]))
    return wrong


def settle(config: dict[str, Any], where: str) -> None:
    """Write out what mlx-lm and transformers would guess differently; refuse what mlx-lm does not compute.

    Raises: InputError with all that is missing, absurd or not computed.
    """
    problems = settle_experts(config)
    for key in ("attention_bias", "use_sliding_window"):
        if config.get(key):
            problems.append(tr("{key} is on, for which mlx-lm's qwen3_moe has no place", key=key))
    if _bad(config["decoder_sparse_step"]) or not isinstance(config["mlp_only_layers"], list):
        problems.append(tr("decoder_sparse_step is not a number, or mlp_only_layers not a list of blocks"))
    if problems:
        raise InputError(f"{where}: {all_problems(problems)}")
    settle_rope(config, where)
    if config.get("rope_scaling") is not None:
        raise InputError(
            tr(
                "{where}: rope_scaling {rope_scaling} is ignored by mlx-lm's qwen3_moe",
                where=where,
                rope_scaling=str(config["rope_scaling"])[:80],
            )
        )
    # mlx-lm wants this key; transformers' qwen3_moe has no default of its own, unlike qwen3.
    config.setdefault("head_dim", config["hidden_size"] // config["num_attention_heads"])


def _bad(value: object) -> bool:
    return isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 31


def _gguf_refuses(config: Mapping[str, Any]) -> str | None:
    if not config["norm_topk_prob"]:
        return "a qwen3_moe whose norm_topk_prob is off is"
    return "blocks of qwen3_moe without experts are" if "dense" in kinds(config) else None


QWEN3_MOE = Architecture(
    model_type="qwen3_moe",
    class_name="Qwen3MoeForCausalLM",
    gguf="qwen3moe",
    block=_block,
    gguf_names=GGUF_NAMES | GGUF_HEAD_NORMS | GGUF_EXPERTS,
    gguf_refuses=_gguf_refuses,
    kinds=kinds,
    experts=experts_of,
    defaults=_DEFAULTS,
    settle=settle,
    never_adapted=(ROUTER,),
)
