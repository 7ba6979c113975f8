"""Training steps of mixture-of-experts models: those that `memory.predict` is fitted to, and those held out."""

from __future__ import annotations

import random
from typing import Any

from mlx_loopai.memory.sizes import StepOptions

# (seed, how many).
FITTED = (13, 20)
HELD_OUT = (20261129, 12)
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
ALL_EXPERTS = ("switch_mlp.gate_proj", "switch_mlp.up_proj", "switch_mlp.down_proj")
_LONGEST_S = 1.5
# Multiply-adds and element-wise operations a second of this project's CI machine.
_PRODUCTS_S, _ELEMENTS_S = 1.5e10, 4e7


def drawn(seed: int, count: int) -> list[tuple[dict[str, Any], StepOptions]]:
    """`count` pairs of (config.json, options), half of them with adapters on the experts."""
    draw = random.Random(seed)
    found: list[tuple[dict[str, Any], StepOptions]] = []
    while len(found) < count:
        case = _case(draw, on_experts=len(found) % 2 == 1)
        if seconds(*case) < _LONGEST_S:
            found.append(case)
    return found


def _case(draw: random.Random, on_experts: bool) -> tuple[dict[str, Any], StepOptions]:
    hidden, heads = draw.choice([128, 256, 384]), draw.choice([2, 4])
    chosen = draw.choice([2, 4])
    inner = draw.choice([64, 96, 128])
    config: dict[str, Any] = {
        "model_type": "qwen3_moe",
        "hidden_size": hidden,
        "intermediate_size": chosen * inner,
        "moe_intermediate_size": inner,
        "num_hidden_layers": draw.choice([3, 4, 6]),
        "num_attention_heads": heads,
        "num_key_value_heads": 2,
        "head_dim": hidden // heads,
        "vocab_size": draw.choice([2000, 8000, 32000]),
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": draw.random() < 0.7,
        "num_experts": chosen * draw.choice([4, 8]),
        "num_experts_per_tok": chosen,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }
    width = draw.choice([128, 256, 512])
    options = StepOptions(
        lora_rank=draw.choice([4, 8]),
        lora_targets=ATTENTION + ALL_EXPERTS if on_experts else ATTENTION,
        micro_tokens=width * draw.choice([1, 2]),
        width=width,
        supervised_share=draw.choice([1.0, 0.5]),
        checkpointing=draw.random() < 0.6,
        chunk_rows=draw.choice([64, 256]),
        accumulates=draw.random() < 0.3,
    )
    return config, options


def seconds(config: dict[str, Any], options: StepOptions) -> float:
    """Roughly how long its step takes."""
    tokens, hidden = options.micro_tokens * (2 if options.accumulates else 1), config["hidden_size"]
    block = (
        hidden * (4 * hidden + 3 * config["num_experts_per_tok"] * config["moe_intermediate_size"]) * 6 / _PRODUCTS_S
    )
    block += config["num_attention_heads"] * options.width * 5 / _ELEMENTS_S
    head = config["vocab_size"] * (hidden * 4 / _PRODUCTS_S + 1 / _ELEMENTS_S)
    return tokens * (config["num_hidden_layers"] * block + options.supervised_share * head)
