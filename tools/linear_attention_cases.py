"""Training steps of linear-attention models: those that `memory.predict` is fitted to, and those held out."""

from __future__ import annotations

import random
from typing import Any

from mlx_loopai.memory.sizes import StepOptions

# (seed, how many, the longest step in seconds by `seconds`).
FITTED = ((7, 40, 4.0), (11, 20, 3.0))
HELD_OUT = ((20261127, 12, 3.0),)
# Multiply-adds a second in float32 and in half precision, and element-wise operations, of this project's CI machine.
_PRODUCTS_S, _HALF_PRODUCTS_S, _ELEMENTS_S = 1.5e10, 1.2e9, 4e7

Drawn = tuple[dict[str, Any], StepOptions]


def drawn(plan: tuple[tuple[int, int, float], ...]) -> list[Drawn]:
    """The (config.json, options) of every seed of `plan`."""
    found: list[Drawn] = []
    for seed, count, longest_s in plan:
        draw, some = random.Random(seed), 0
        while some < count:
            case = _case(draw)
            if seconds(*case) < longest_s:
                found.append(case)
                some += 1
    return found


def _case(draw: random.Random) -> Drawn:
    hidden, layers = draw.choice([128, 256, 384, 512]), draw.choice([4, 4, 8])
    config: dict[str, Any] = {
        "model_type": "qwen3_5",
        "hidden_size": hidden,
        "intermediate_size": int(hidden * draw.choice([2.5, 3, 3.5])) // 64 * 64,
        "num_hidden_layers": layers,
        "num_attention_heads": draw.choice([2, 4]),
        "num_key_value_heads": 2,
        "head_dim": draw.choice([64, 128]),
        "vocab_size": draw.choice([4096, 32000, 100000]),
        "rms_norm_eps": 1e-6,
        "linear_key_head_dim": draw.choice([32, 64, 128]),
        "linear_value_head_dim": draw.choice([32, 64, 128]),
        "tie_word_embeddings": draw.random() < 0.7,
        "max_position_embeddings": 4096,
    }
    keys = draw.choice([2, 4, 8])
    config |= {"linear_num_key_heads": keys, "linear_num_value_heads": keys * draw.choice([1, 2])}
    width, rows, precision = (
        draw.choice([128, 256, 512, 1024]),
        draw.choice([1, 2, 4]),
        draw.choice(["fp32", "fp32", "bf16"]),
    )
    options = StepOptions(
        base_precision=precision,
        compute=precision,
        lora_rank=draw.choice([4, 8, 16]),
        lora_layers=draw.choice([0, 0, 2]),
        micro_tokens=min(2048, rows * width) // width * width,
        width=width,
        supervised_share=draw.choice([1.0, 0.5]),
        checkpointing=draw.random() < 0.5,
        chunk_rows=draw.choice([64, 256]),
        accumulates=draw.random() < 0.5,
    )
    return config, options


def seconds(config: dict[str, Any], options: StepOptions) -> float:
    """Roughly how long its step takes."""
    tokens, hidden = options.micro_tokens * (2 if options.accumulates else 1), config["hidden_size"]
    heads = config["linear_num_value_heads"]
    products_s = _PRODUCTS_S if options.compute == "fp32" else _HALF_PRODUCTS_S
    linears = hidden * (hidden * 4 + config["intermediate_size"] * 3) * 6
    memory = config["linear_key_head_dim"] * config["linear_value_head_dim"]
    block = linears / products_s + heads * memory * 30 / _PRODUCTS_S + heads * 200 * 20 / _ELEMENTS_S
    head = config["vocab_size"] * (hidden * 4 / products_s + 1 / _ELEMENTS_S)
    return tokens * (config["num_hidden_layers"] * block + options.supervised_share * head)
