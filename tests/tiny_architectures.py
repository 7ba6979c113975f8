"""A tiny configuration of every architecture in the table, and folders of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

VOCAB = 300
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}
GROUPED: dict[str, Any] = SIZES | {
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "head_dim": 8,
    "rope_theta": 1e4,
    "tie_word_embeddings": True,
}
CONFIGS: dict[str, dict[str, Any]] = {
    name: {"model_type": name, **GROUPED} for name in ("qwen2", "qwen3", "llama", "mistral")
}
CONFIGS["mistral"] |= {"tie_word_embeddings": False, "sliding_window": None}
CONFIGS["gpt_neox"] = {
    "model_type": "gpt_neox", **SIZES, "intermediate_size": 128, "layer_norm_eps": 1e-5, "rotary_emb_base": 10000,
    "rotary_pct": 0.25,
}  # fmt: skip
CONFIGS["gpt_neox in turn"] = CONFIGS["gpt_neox"] | {"use_parallel_residual": False}
CONFIGS["qwen3_5"] = {
    "model_type": "qwen3_5", **GROUPED, "num_hidden_layers": 4, "full_attention_interval": 2,
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 12,
}  # fmt: skip
EXPERTS: dict[str, Any] = {
    "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "norm_topk_prob": True,
}  # fmt: skip
CONFIGS["qwen3_moe"] = {
    "model_type": "qwen3_moe", **GROUPED, **EXPERTS, "num_hidden_layers": 3, "decoder_sparse_step": 1,
    "mlp_only_layers": [1],
}  # fmt: skip
CONFIGS["qwen3_5_moe"] = CONFIGS["qwen3_5"] | EXPERTS | {
    "model_type": "qwen3_5_moe", "shared_expert_intermediate_size": 24,
}  # fmt: skip
CONFIGS["exaone4"] = {
    "model_type": "exaone4", **GROUPED, "rope_scaling": None, "sliding_window": None, "sliding_window_pattern": None,
    "layer_types": ["full_attention"] * 2,
}  # fmt: skip
# A window that the longest test prompt passes.
CONFIGS["exaone4 with windows"] = CONFIGS["exaone4"] | {
    "num_hidden_layers": 3, "sliding_window": 8, "sliding_window_pattern": "LLG",
    "layer_types": ["sliding_attention"] * 2 + ["full_attention"],
}  # fmt: skip
CONFIGS["gemma3_text"] = {
    "model_type": "gemma3_text", **GROUPED, "num_hidden_layers": 3, "sliding_window": 8, "sliding_window_pattern": 3,
    "query_pre_attn_scalar": 8, "rope_local_base_freq": 1e4,
}  # fmt: skip
# Largest difference from the same computed otherwise. Linear attention is divided by its own length, which may be next
# to nothing.
TOLERANCES = {"qwen3_5": 1e-4, "qwen3_5_moe": 1e-4}


def write_architecture(folder: Path, name: str, tokenizer: Path) -> Path:
    """A folder of a random tiny model, float32, with the tokenizer files of `tokenizer`."""
    import mlx.core as mx
    from mlx.utils import tree_flatten, tree_map

    from mlx_loopai.models.load import build_model

    folder.mkdir(parents=True)
    for file in tokenizer.glob("tokenizer*.json"):
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "config.json").write_text(json.dumps(CONFIGS[name]), encoding="utf-8")
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 0]}', encoding="utf-8")
    mx.random.seed(7)
    # Wider than the usual initialisation: clear preferences, so that rounding changes no greedy choice.
    weights = tree_map(lambda array: 4 * array if array.ndim == 2 else array, build_model(CONFIGS[name]).parameters())
    arrays = dict(tree_flatten(weights))
    if CONFIGS[name].get("tie_word_embeddings"):
        arrays.pop("lm_head.weight", None)  # mlx-lm's gemma3_text has one until weights are read
    mx.save_safetensors(str(folder / "model.safetensors"), arrays, {"format": "mlx"})
    return folder
