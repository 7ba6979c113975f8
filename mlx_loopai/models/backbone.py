"""The transformer below the head, run block by block: any block can be checkpointed without patching a class."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import mlx.core as mx
import mlx.nn as nn

from mlx_loopai.models.decoder import embedded, final_norm
from mlx_loopai.models.exponentials import sigmoid
from mlx_loopai.models.gated_delta import linear_attention
from mlx_loopai.models.lora import LoRALinear, dropout_drawn_from, dropout_key, dropping_the_same

Positions = tuple[mx.array, mx.array]
Run = Callable[[mx.array], mx.array]


def hidden_states(
    model: nn.Module, ids: mx.array, checkpointing: bool = False, positions: Positions | None = None
) -> mx.array:
    """Final normalised states (B, T, D) of token ids (B, T) under a causal mask.

    With `positions` (rows (N,), columns (N,)) only those states (N, D), and after its attention the last block
    computes nothing else. Rows are right-padded, so a plain causal mask keeps real tokens from seeing padding. With
    `checkpointing` each block is computed again in the backward pass: the same gradients with one block's activations
    alive at a time. Without it only the cheap half of the MLP is (`_swiglu`).
    """
    states = embedded(model, ids)
    # A string mask keeps Metal's attention memory-linear in its backward pass; an array mask would not.
    mask = "causal" if ids.shape[1] > 1 else None
    last = len(model.layers) - 1
    for index, block in enumerate(model.layers):
        chosen = positions if index == last else None
        run = _runner(block, partial(_run_block, block, mask, chosen, not checkpointing))
        if checkpointing:
            run = nn.utils.checkpoint(block, run)
        states = run(states)
    return final_norm(model)(states)


def block_states(block: nn.Module, states: mx.array) -> mx.array:
    """What `block` makes of states (B, T, D) under a causal mask, computed as in `hidden_states`."""
    return _run_block(block, "causal" if states.shape[1] > 1 else None, None, False, states)


def _run_block(
    block: nn.Module, mask: str | None, positions: Positions | None, lean: bool, states: mx.array
) -> mx.array:
    if "attention" in block:  # gpt_neox: attention and MLP side by side or in turn
        found = block(states, mask, None)
        return found if positions is None else found[positions]
    # The pre-norm block of Qwen and Llama in its two halves: after the attention, rows do not see each other.
    normed = block.input_layernorm(states)
    if "linear_attn" in block:
        attended = states + linear_attention(block.linear_attn, normed)
    else:
        attended = states + block.self_attn(normed, mask, None)
    if positions is not None:
        attended = attended[positions]
    return attended + _swiglu(block.mlp, block.post_attention_layernorm(attended), lean)


def _swiglu(mlp: nn.Module, x: mx.array, lean: bool) -> mx.array:
    """The gated MLP. `lean`: of gate, sigmoid, silu, up and product only the first two and up wait for the backward
    pass. The others are multiplied again there; the sigmoid is not, since exponentials are slow on CPU.
    """
    gate, up = mlp.gate_proj(x), mlp.up_proj(x)
    # What an observer adds or a disabled adapter leaves out would be lost when it runs again.
    lean = lean and (not isinstance(mlp.down_proj, LoRALinear) or mlp.down_proj.is_plain)

    def project(gate: mx.array, sigmoid: mx.array, up: mx.array) -> mx.array:
        return mlp.down_proj(gate * sigmoid * up)

    run = nn.utils.checkpoint(mlp.down_proj, dropping_the_same(mlp.down_proj, project)) if lean else project
    return run(gate, sigmoid(gate), up)


def _runner(block: nn.Module, run: Run) -> Run:
    """`run` with the same dropout in `block` however often it runs."""
    key = dropout_key(block)

    def again(states: mx.array) -> mx.array:
        with dropout_drawn_from(block, key):
            return run(states)

    return again
