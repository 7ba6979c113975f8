"""The transformer below the head, run block by block: any block can be checkpointed without patching a class."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn

from mlx_loopai.models.lora import dropout_drawn_from, dropout_key


def hidden_states(model: nn.Module, ids: mx.array, checkpointing: bool = False) -> mx.array:
    """Final normalised states (B, T, D) of token ids (B, T) under a causal mask.

    Rows are right-padded, so a plain causal mask keeps real tokens from seeing padding. With `checkpointing` each block
    is computed again in the backward pass: the same gradients with one block's activations alive at a time.
    """
    body = model.model
    states = body.embed_tokens(ids)
    # A string mask keeps Metal's attention memory-linear in its backward pass; an array mask would not.
    mask = "causal" if ids.shape[1] > 1 else None
    for block in body.layers:
        run = _runner(block, mask)
        if checkpointing:
            run = nn.utils.checkpoint(block, run)
        states = run(states)
    return body.norm(states)


def _runner(block: nn.Module, mask: str | None) -> Callable[[mx.array], mx.array]:
    """`block` as a function of its input alone, however often it runs."""
    key = dropout_key(block)

    def run(states: mx.array) -> mx.array:
        with dropout_drawn_from(block, key):
            return block(states, mask, None)

    return run
