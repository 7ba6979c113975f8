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
    "Mistral": {"head_dim": 24, "sliding_window": 64},
    "GPTNeoX": {
        "intermediate_size": 256,
        # Neither transformers' nor mlx-lm's default.
        "rope_parameters": {"rope_type": "default", "rope_theta": 777.0, "partial_rotary_factor": 0.5},
        # mlx-lm computes this one for every gelu.
        "hidden_act": "gelu_new",
    },
}


def tiny_model(kind: str = "Qwen2", **changes: Any) -> Any:
    """A random model whose every parameter, biases and norms included, differs from its initial constant."""
    import torch
    import transformers

    torch.manual_seed(3)
    config = getattr(transformers, f"{kind}Config")(**SHAPE | changes)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2 + (1.0 if "norm" in name else 0.0))
    return model
