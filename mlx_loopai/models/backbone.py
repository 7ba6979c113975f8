"""The transformer below the head, run block by block: any block can be checkpointed without patching a class."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn


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
        run = nn.utils.checkpoint(block) if checkpointing else block
        states = run(states, mask, None)
    return body.norm(states)
