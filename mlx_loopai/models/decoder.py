"""Where mlx-lm's model of an architecture has its embedding, last norm and head."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn


def text_model(model: nn.Module) -> nn.Module:
    """The text model within a multimodal one; `model` where it is nothing else."""
    return model.language_model if "language_model" in model else model


def embedded(model: nn.Module, ids: mx.array) -> mx.array:
    """What the first block reads (B, T, D) for token ids (B, T)."""
    body = text_model(model).model
    return body.embed_in(ids) if "embed_in" in body else body.embed_tokens(ids)


def softmax_attention(block: nn.Module) -> nn.Module | None:
    """The block's attention over all tokens before each; None for a block of linear attention."""
    return block.get("self_attn", block.get("attention"))


def final_norm(model: nn.Module) -> nn.Module:
    """The module between the last block and the head."""
    body = text_model(model).model
    return body.final_layer_norm if "final_layer_norm" in body else body.norm


def head_layer(model: nn.Module) -> nn.Module:
    """The linear layer that gives the logits; the embedding where that serves as one."""
    text = text_model(model)
    if "lm_head" in text:
        return text.lm_head
    return text.model.embed_out if "embed_out" in text.model else text.model.embed_tokens
