"""Sizes of released models by name, so that a plan needs neither a download nor a config.json.

Source: config.json of Qwen/Qwen2.5-{size}-Instruct, Qwen/Qwen3-{size} and (the text model) Qwen/Qwen3.5-{size} on the
Hugging Face hub; the parameter counts that follow from them are those of the model cards
(tests/unit/models/test_known_shapes.py).
"""

from __future__ import annotations

import difflib
from typing import Any

SUFFIX = "-shape"

# Name -> hidden, intermediate, layers, heads, key/value heads, vocabulary, tied head.
_QWEN25 = {
    "Qwen2.5-0.5B": (896, 4864, 24, 14, 2, 151936, True),
    "Qwen2.5-1.5B": (1536, 8960, 28, 12, 2, 151936, True),
    "Qwen2.5-3B": (2048, 11008, 36, 16, 2, 151936, True),
    "Qwen2.5-7B": (3584, 18944, 28, 28, 4, 152064, False),
    "Qwen2.5-14B": (5120, 13824, 48, 40, 8, 152064, False),
}
_QWEN3 = {
    "Qwen3-0.6B": (1024, 3072, 28, 16, 8, 151936, True),
    "Qwen3-1.7B": (2048, 6144, 28, 16, 8, 151936, True),
    "Qwen3-4B": (2560, 9728, 36, 32, 8, 151936, True),
    "Qwen3-8B": (4096, 12288, 36, 32, 8, 151936, False),
    "Qwen3-14B": (5120, 17408, 40, 40, 8, 151936, False),
}
_QWEN35 = {
    "Qwen3.5-0.8B": (1024, 3584, 24, 8, 2, 248320, True),
    "Qwen3.5-2B": (2048, 6144, 24, 8, 2, 248320, True),
    "Qwen3.5-4B": (2560, 9216, 32, 16, 4, 248320, True),
}
# Value heads of their linear attention; all have 16 key heads of 128.
_QWEN35_VALUE_HEADS = {"Qwen3.5-0.8B": 16, "Qwen3.5-2B": 16, "Qwen3.5-4B": 32}
_FIELDS = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "vocab_size", "tie_word_embeddings",
)  # fmt: skip


def known_names() -> list[str]:
    """Every name that `known_config` takes, such as `Qwen2.5-3B-shape`."""
    return [f"{name}{SUFFIX}" for name in (*_QWEN25, *_QWEN3, *_QWEN35)]


def known_config(name: str) -> dict[str, Any] | None:
    """The config.json fields that `name` (`Qwen2.5-3B-shape`, any case) stands for; None for another name."""
    found = {known.lower(): known.removesuffix(SUFFIX) for known in known_names()}.get(name.strip().lower())
    if found is None:
        return None
    sizes = dict(zip(_FIELDS, (_QWEN25 | _QWEN3 | _QWEN35)[found], strict=True))
    if found in _QWEN25:
        return {"model_type": "qwen2", "rms_norm_eps": 1e-6, **sizes}
    if found in _QWEN35:
        heads = {"linear_num_key_heads": 16, "linear_num_value_heads": _QWEN35_VALUE_HEADS[found]}
        return {"model_type": "qwen3_5", "rms_norm_eps": 1e-6, "max_position_embeddings": 262144, **sizes, **heads}
    more = {"head_dim": 128, "max_position_embeddings": 40960, "rope_theta": 1e6}
    return {"model_type": "qwen3", "rms_norm_eps": 1e-6, **more, **sizes}


def near_names(name: str) -> list[str]:
    """The known names spelt most like `name`, at least one."""
    spelt = {known.lower(): known for known in known_names()}
    return [spelt[near] for near in difflib.get_close_matches(name.lower(), list(spelt), n=3, cutoff=0.0)]
