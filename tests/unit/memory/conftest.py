"""Shapes that the memory tests plan for."""

from __future__ import annotations

import pytest

from mlx_loopai.models.shape import ModelShape

# As in the published config.json files.
QWEN25 = {
    "0.5B": (151936, 896, 24, 14, 2, 4864, True),
    "1.5B": (151936, 1536, 28, 12, 2, 8960, True),
    "3B": (151936, 2048, 36, 16, 2, 11008, True),
    "7B": (152064, 3584, 28, 28, 4, 18944, False),
}


def qwen25_config(size: str) -> dict:
    vocab, hidden, layers, heads, kv_heads, inner, tied = QWEN25[size]
    return {
        "model_type": "qwen2",
        "vocab_size": vocab,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": inner,
        "tie_word_embeddings": tied,
    }


@pytest.fixture
def qwen25():
    """Size such as "3B" -> ModelShape."""
    return lambda size: ModelShape.from_config(qwen25_config(size))
