"""Tiny random models of every architecture, as transformers builds them."""

from __future__ import annotations

from typing import Any

import numpy as np

VOCAB = 96
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    # Neither transformers' nor mlx-lm's default: a converter that loses it gives other logits.
    "rope_parameters": {"rope_type": "default", "rope_theta": 777.0},
}
TOKENS_OF_TEXT = [*(chr(0x21 + number) for number in range(VOCAB - 3)), "ab", "<|im_end|>"]
TOKENS = np.random.default_rng(5).integers(0, VOCAB, (2, 40))
KINDS: dict[str, dict[str, Any]] = {
    "Qwen2": {},
    "Qwen3": {"head_dim": 24},
    "Llama": {},
    "Llama-biased": {"attention_bias": True, "mlp_bias": True},
    # Llamas by name, each with what is its own among them: heads that do not split the states evenly, rotary bases.
    "Llama-Kanana": {"head_dim": 24, "rope_parameters": {"rope_type": "default", "rope_theta": 8e6}},
    "Llama-HyperCLOVAX": {"head_dim": 16, "rope_parameters": {"rope_type": "default", "rope_theta": 1e8}},
    "Llama-Midm": {"num_attention_heads": 4, "head_dim": 32},
    "Llama-SmolLM2": {"num_key_value_heads": 8, "rope_parameters": {"rope_type": "default", "rope_theta": 13e4}},
    "Mistral": {"head_dim": 24, "sliding_window": 64},
    "Qwen3_5": {
        "num_hidden_layers": 5,
        "head_dim": 16,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 24,
        "rope_parameters": {"rope_type": "default", "rope_theta": 777.0, "partial_rotary_factor": 0.5},
    },
    "Qwen3Moe": {
        "head_dim": 24,
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "norm_topk_prob": True,
        "mlp_only_layers": [1],
    },
    "Exaone4": {"sliding_window": None, "layer_types": ["full_attention"] * 3},
    # Windows that the text passes, here and below.
    "Exaone4-windows": {"num_hidden_layers": 4, "sliding_window": 8, "sliding_window_pattern": 4},
    "Gemma3": {
        "num_hidden_layers": 4,
        # Its root is the same in bfloat16, to which mlx-lm rounds it.
        "hidden_size": 64,
        "head_dim": 16,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "query_pre_attn_scalar": 24,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 777.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 333.0},
        },
    },
    "GPTNeoX": {
        "intermediate_size": 256,
        # Neither transformers' nor mlx-lm's default.
        "rope_parameters": {"rope_type": "default", "rope_theta": 777.0, "partial_rotary_factor": 0.5},
        # mlx-lm computes this one for every gelu.
        "hidden_act": "gelu_new",
    },
}
# Of the text model where the plain name is a multimodal one's.
CONFIGS = {"Qwen3_5": "Qwen3_5TextConfig", "Qwen3_5Moe": "Qwen3_5MoeTextConfig", "Gemma3": "Gemma3TextConfig"}
# Whose norms multiply by 1 + w.
OFFSET_NORMS = ("Qwen3_5", "Qwen3_5Moe", "Gemma3")

# Largest difference of two logits. Linear attention is divided by its own length, which may be next to nothing: there
# transformers' float32 is 1e-4 off its float64 as well.
TOLERANCES = {"Qwen3_5": 5e-4, "Qwen3_5Moe": 5e-4}


KINDS["Qwen3_5Moe"] = KINDS["Qwen3_5"] | {
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 48,
}


def tiny_model(kind: str = "Qwen2", **changes: Any) -> Any:
    """A random model whose every parameter, biases and norms included, differs from its initial constant."""
    import torch
    import transformers

    torch.manual_seed(3)
    config = getattr(transformers, CONFIGS.get(kind, f"{kind}Config"))(**SHAPE | changes)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            usual = 1.0 if "norm" in name and not (kind in OFFSET_NORMS and ".linear_attn." not in name) else 0.0
            parameter.copy_(torch.randn_like(parameter) * 0.2 + usual)
    return model
