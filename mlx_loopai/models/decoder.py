"""Where mlx-lm's model of an architecture has its embedding, last norm and head."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn


def embedded(model: nn.Module, ids: mx.array) -> mx.array:
    """What the first block reads (B, T, D) for token ids (B, T)."""
    body = model.model
    return body.embed_in(ids) if "embed_in" in body else body.embed_tokens(ids)


def final_norm(model: nn.Module) -> nn.Module:
    """The module between the last block and the head."""
    return model.model.final_layer_norm if "final_layer_norm" in model.model else model.model.norm


def head_layer(model: nn.Module) -> nn.Module:
    """The linear layer that gives the logits; the embedding where that serves as one."""
    if "lm_head" in model:
        return model.lm_head
    return model.model.embed_out if "embed_out" in model.model else model.model.embed_tokens
