"""Finds the parts of mlx-lm's model of any architecture: text model, attention, final norm, head; embeds and masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import mlx.core as mx
import mlx.nn as nn

from mlx_loopai.models.architectures import Architecture, architecture_of

Mask: TypeAlias = mx.array | str | None


def architecture_in(model: nn.Module) -> Architecture:
    """The entry of mlx-lm's `model` in the table of architectures."""
    return architecture_of(model.model_type, "the model")


def text_model(model: nn.Module) -> nn.Module:
    """The text model within a multimodal one; `model` itself where it is a text model."""
    return model.language_model if "language_model" in model else model


def embedded(model: nn.Module, ids: mx.array, placed: Callable[[mx.array], mx.array] | None = None) -> mx.array:
    """The first block's input (B, T, D) for token ids (B, T). placed: function that puts pictures into embeddings."""
    states = word_vectors(model, ids)
    if placed is not None:
        states = placed(states)
    if architecture_in(model).scaled_embedding:
        # mlx-lm rounds the factor to bfloat16 in every precision, and so must we.
        states = states * mx.array(states.shape[-1] ** 0.5, mx.bfloat16).astype(states.dtype)
    return states


def word_vectors(model: nn.Module, ids: mx.array) -> mx.array:
    """The embeddings (..., D) of token ids (...), as they stand in the model's table."""
    body = text_model(model).model
    found: mx.array = body.embed_in(ids) if "embed_in" in body else body.embed_tokens(ids)
    return found


def causal_mask(model: nn.Module, block: nn.Module, tokens: int) -> Mask:
    """The mask for the softmax attention of `block` over `tokens` tokens; a block with a window sees the last ones.

    It is the word "causal" where nothing else is needed: without a mask array, the backward pass of Metal's attention
    stays linear in memory.
    """
    attention = softmax_attention(block)
    if tokens == 1 or attention is None:
        return None
    windowed = getattr(attention, "is_local", False) or getattr(attention, "is_sliding", False)
    window = text_model(model).args.sliding_window if windowed else tokens
    if tokens <= window:
        return "causal"
    from mlx_lm.models.base import create_causal_mask  # slow to import, and a plan needs none

    return create_causal_mask(tokens, window_size=window)


def softmax_attention(block: nn.Module) -> nn.Module | None:
    """The block's softmax attention; None for a block of linear attention."""
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
